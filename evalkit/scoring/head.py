"""Final hidden states apart from the output head, and exact logits rebuilt from them.

Between the last hidden state and the logits a model may scale, cap or mask. To be exact for any
architecture, logits are rebuilt by the model's own `forward`, in which the base model answers with
the given hidden states instead of running. Whether that gives the model's own logits is checked
on the first tokens of the text; a model that fails the check is run whole, and its rows are the
logits themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from evalkit.errors import is_out_of_memory
from evalkit.models.caches import keeps_every_token
from evalkit.scoring.batching import short_rope_length
from evalkit.scoring.device_memory import memory_of
from evalkit.scoring.rounding import same_logits, same_rows

Kind = Literal["hidden", "logits"]

# Up to here the matrix product of a CPU is bound by reading the head's weights.
_FEW_ROWS = 24
# Float32 logits of one call of the head. On a CPU below the C library's largest threshold for
# separate mappings (32 MiB): such blocks are reused, larger ones are mapped and zeroed each time.
_LOGITS_BYTES = 24 * 2**20
# Fewer rows would leave the head bound by reading its weights. A GPU is bound by arithmetic from a
# few hundred rows on; with the most, calls take no time beside it.
_FEWEST_AT_ONCE, _MOST_AT_ONCE = 64, 4096
# On a GPU logits may take this part of the free memory. Beside a row's own logits there are those
# of the reference, and of both what the statistics make of them.
_OF_FREE_MEMORY, _LOGITS_HELD = 1 / 8, 8
# Longer prompts are read in chunks: neither activations nor the attention mask of a pass, which has
# a column for every token before it, may grow with the square of the context.
WHOLE_TOKENS, CHUNK_TOKENS = 8192, 2048
_TRIED_TOKENS = 32
_TRIED = (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


class OutputHead:
    """The model's own way from final hidden states to logits; `linear` replaces its head."""

    def __init__(
        self,
        model: PreTrainedModel,
        body: nn.Module,
        output: type[Any],
        linear: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.body = body
        self.output = output
        self.linear = linear

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits (n, vocabulary) of `hidden` (n, hidden_size), in the dtype the model gives."""
        answer = self.output(last_hidden_state=hidden[None])
        ids = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
        with answering(self.body, answer), self._replaced():
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits[0]

    @contextlib.contextmanager
    def _replaced(self) -> Iterator[None]:
        if self.linear is None:
            yield
            return
        parent, leaf = self._place
        own = getattr(parent, leaf)
        setattr(parent, leaf, self.linear)
        try:
            yield
        finally:
            setattr(parent, leaf, own)

    @cached_property
    def _place(self) -> tuple[nn.Module, str]:
        """The module that holds the model's own head, and its name there."""
        own = self.model.get_output_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is own)
        above, _, leaf = name.rpartition(".")
        return self.model.get_submodule(above), leaf


class _FewRowsLinear(nn.Module):
    """A linear layer for a few rows on a CPU, two times faster with the weights as left factor."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        weight, bias = self.plain.weight, self.plain.bias
        output = (weight @ hidden.flatten(0, -2).t()).t().contiguous()
        output = output.unflatten(0, hidden.shape[:-1])
        return output if bias is None else output + bias


@dataclass(frozen=True)
class Forward:
    """One model run in two steps: ids to rows, rows to logits.

    Rows are final hidden states. Where `head` is None they are the logits themselves, because
    the two cannot be told apart; `note` then says why. `masked` tells that padding must be masked
    to stay invisible.
    """

    model: PreTrainedModel
    body: nn.Module
    head: OutputHead | None
    vocabulary: int
    masked: bool = True
    note: str = ""

    @property
    def kind(self) -> Kind:
        """What a row is."""
        return "logits" if self.head is None else "hidden"

    @cached_property
    def rows_at_once(self) -> int:
        """Rows that are taken through the head in one call, so that their logits stay small.

        On a GPU as many as its memory allows when this is first asked, a power of two, so that a
        little more or less changes nothing.
        """
        memory = memory_of(self.model.device)
        if memory is None:
            return max(_FEWEST_AT_ONCE, _LOGITS_BYTES // (4 * self.vocabulary))
        allowed = int(_OF_FREE_MEMORY * memory.free() / (_LOGITS_HELD * 4 * self.vocabulary))
        return min(max(_FEWEST_AT_ONCE, 1 << max(0, allowed.bit_length() - 1)), _MOST_AT_ONCE)

    @property
    def head_bytes(self) -> int:
        """Bytes of the logits of `rows_at_once` rows and of what is made of them."""
        return self.rows_at_once * _LOGITS_HELD * 4 * self.vocabulary

    def rows(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rows (batch, length, width) of `ids` (batch, length); long ones in chunks."""
        if ids.shape[1] <= WHOLE_TOKENS or mask is not None or not self._can_be_cut:
            return self._rows(self.body(input_ids=ids, attention_mask=mask, use_cache=False))
        return self._rows_of(_chunks(ids, short_rope_length(self.model.config)))

    @cached_property
    def _can_be_cut(self) -> bool:
        """Whether passes behind one another give the rows of one pass, tried on a few tokens.

        A recurrent state is lost between them in some models.
        """
        if not keeps_every_token(self.model):
            return False
        ids = torch.arange(_TRIED_TOKENS, device=self.model.device)[None] % self.vocabulary
        try:
            pieces = self._rows_of(list(ids.split(_TRIED_TOKENS // 2, 1)))
        except _TRIED as error:
            if is_out_of_memory(error):
                raise
            return False
        return same_rows(pieces, self._rows(self.body(input_ids=ids, use_cache=False)))

    def _rows_of(self, chunks: Sequence[Tensor]) -> Tensor:
        """Rows of token ids in passes behind one another, each (batch, length)."""
        cache, found = None, []
        for chunk in chunks:
            output = self.body(input_ids=chunk, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            found.append(self._rows(output))
        return torch.cat(found, 1)

    def _rows(self, output: Any) -> Tensor:
        rows: Tensor = output.logits if self.head is None else output.last_hidden_state
        return rows

    def logits(self, rows: Tensor) -> Tensor:
        """Logits (n, vocabulary) of rows (n, width)."""
        return rows if self.head is None else self.head(rows)

    def next_logits(self, rows: Tensor) -> Tensor:
        """`logits` up to rounding, faster for the few rows of a decoding step on a CPU."""
        few = rows.device.type == "cpu" and 1 < len(rows) <= _FEW_ROWS
        head = self._few_rows_head if few else None
        return self.logits(rows) if head is None else head(rows)

    @cached_property
    def _few_rows_head(self) -> OutputHead | None:
        if self.head is None:
            return None
        try:
            plain = plain_head(self.model)
        except ValueError:
            return None
        return OutputHead(self.model, self.body, self.head.output, _FewRowsLinear(plain))


@torch.inference_mode()
def open_forward(model: PreTrainedModel, sample: Tensor, *, stored: bool = False) -> Forward:
    """Find how `model` runs in two steps, checked on the ids `sample` (length,).

    With `stored`, the head must also be a plain linear layer that can be stored beside the rows.
    """
    own = model(input_ids=sample[None], use_cache=False).logits
    reasons = []
    for body in _bodies(model):
        try:
            output = body(input_ids=sample[None], use_cache=False)
            hidden = output.last_hidden_state
            linear = plain_head(model) if stored else None
            if stored and (further := _further_matrices(model, body)):
                raise ValueError(f"its head holds {further}, which a variant may quantize")
            rebuilt = OutputHead(model, body, type(output), linear)(hidden[0])
        except _TRIED as error:
            if is_out_of_memory(error):
                raise
            reasons.append(str(error).strip().partition("\n")[0] or type(error).__name__)
            continue
        if not same_logits(rebuilt, own[0]):
            reasons.append("logits rebuilt from final hidden states differ from its own")
            continue
        head = OutputHead(model, body, type(output))
        return Forward(model, body, head, own.shape[-1], _sees_padding(body, sample, hidden))
    note = f"{type(model).__name__} is scored by its whole logits: {'; '.join(reasons)}"
    return Forward(model, model, None, own.shape[-1], note=note)


def plain_head(model: PreTrainedModel) -> nn.Linear:
    """A copy of the output head that shares its weights, as a plain linear layer.

    Raises ValueError where the head is none, or holds quantized weights.
    """
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    plain = type(weight) is nn.Parameter and weight.is_floating_point() and weight.ndim == 2
    # An offloaded head is on no device but while it runs.
    if weight is None or not plain or weight.device.type == "meta":
        raise ValueError(f"its output head {type(head).__name__} holds no plain weight matrix")
    return linear_layer(weight, getattr(head, "bias", None))


def linear_layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer over `weight` (out, in) and `bias` (out), without a copy."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def _further_matrices(model: PreTrainedModel, body: nn.Module) -> str:
    """Name of a matrix between the final hidden states and the output head; "" for none."""
    known = {id(parameter) for parameter in body.parameters()}
    head = model.get_output_embeddings()
    known |= {id(parameter) for parameter in head.parameters()} if head is not None else set()
    return next((n for n, p in model.named_parameters() if p.dim() > 1 and id(p) not in known), "")


def _chunks(ids: Tensor, short: int | None) -> list[Tensor]:
    """`ids` (batch, length) cut for passes behind one another.

    All must run under the rotary factors of the whole: where these change at `short` tokens and
    there are more, the first chunk reaches beyond.
    """
    first = CHUNK_TOKENS
    if short is not None and ids.shape[1] > short:
        first = max(first, short + 1)
    rest = ids[:, first:].split(CHUNK_TOKENS, 1) if first < ids.shape[1] else ()
    return [ids[:, :first], *rest]


def _bodies(model: PreTrainedModel) -> list[nn.Module]:
    """Modules that may return the final hidden states: the base model, else its decoder."""
    found: list[nn.Module] = []
    for module in (model.base_model, model.get_decoder()):
        if isinstance(module, nn.Module) and module is not model and module not in found:
            found.append(module)
    return found


def _sees_padding(body: nn.Module, sample: Tensor, hidden: Tensor) -> bool:
    """Whether tokens after the end change earlier hidden states; never in causal attention."""
    longer = torch.cat([sample, sample[-1:].expand(len(sample))])
    padded = body(input_ids=longer[None], use_cache=False).last_hidden_state[:, : len(sample)]
    return not same_rows(padded, hidden)


@contextlib.contextmanager
def answering(body: nn.Module, answer: Any) -> Iterator[None]:
    """Let `body.forward` return `answer`; set on the instance, so no module is exchanged."""
    own = body.__dict__.get("forward")
    body.__dict__["forward"] = lambda *args, **kwargs: answer
    try:
        yield
    finally:
        if own is None:
            del body.__dict__["forward"]
        else:
            body.__dict__["forward"] = own
