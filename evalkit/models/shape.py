"""The sizes of an architecture for the planner, exact through the meta device.

Any causal language model that transformers knows, and Phi-3 Small natively, from its config.json
alone: no weights, no hub and no memory are needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from evalkit.analysis.architecture import (
    Attention,
    Growth,
    Linear,
    ModelShape,
    Moment,
    SparseMask,
)
from evalkit.errors import ModelError
from evalkit.models.activations import (
    LengthError,
    cast,
    keep_kinds_of_layers,
    moments,
    short_cache,
)
from evalkit.models.caches import kept_tensors
from evalkit.models.phi3_small.configuration import Phi3SmallConfig
from evalkit.models.phi3_small.layout import MASK_BUDGET
from evalkit.models.phi3_small.sparse import BlockPattern
from evalkit.models.shapes import decoder_linears, meta_model
from evalkit.models.text_stack import fused_experts

# Any type of these sizes would do; fused experts run in no other of 2 bytes.
DTYPES = {2: torch.bfloat16, 4: torch.float32}
# Long enough that constants do not hide the growth, short enough to be quick.
TRACED_TOKENS = 384
# While a sparse mask is made, its visible keys and their negation are held as booleans.
_MASK_BOOLEANS = 2
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")


def model_shape(name: str, config: dict[str, Any], elements: Iterable[int] = (2,)) -> ModelShape:
    """The shape of the architecture of config.json `config`.

    `elements` are the bytes of an unquantized element (2 or 4) that will be planned for.
    Raises ModelError for a configuration that transformers cannot build or run.
    """
    model = _without_data(config)
    own = model.config.get_text_config()
    linears = decoder_linears(model)
    embedding = model.get_input_embeddings().weight
    output = model.get_output_embeddings()
    if output is None:
        raise ModelError(f"{name} has no output head: give a causal language model")
    head, tied = output.weight.numel(), output.weight is embedding
    experts = sum(weight.numel() for weight in fused_experts(model).values())
    counted = sum(o * i for o, i in linears.values()) + embedding.numel() + experts
    total = sum(p.numel() for p in model.parameters())
    hidden, heads = own.hidden_size, _first(own, ("num_attention_heads",), 0)
    attention, state = _kept(model)
    prefill, decode, estimated = _moments(config, sorted(set(elements)))
    return ModelShape(
        name=name,
        layers=_first(own, ("num_hidden_layers",), len(attention)),
        hidden=hidden,
        vocab=own.vocab_size,
        heads=heads,
        kv_heads=_first(own, ("num_key_value_heads",), heads),
        head_dim=_first(own, ("head_dim",), hidden // heads if heads else 0),
        intermediate=_first(own, ("intermediate_size", "ffn_dim", "n_inner"), 4 * hidden),
        max_context=_first(own, ("max_position_embeddings", "max_seq_len"), 0),
        linears=tuple(Linear(name, *widths) for name, widths in linears.items()),
        embedding=embedding.numel(),
        head=head,
        tied=tied,
        other=total - counted - (0 if tied else head),
        attention=attention,
        state=state,
        experts=experts,
        expert_share=_expert_share(own),
        prefill=prefill,
        decode=decode,
        estimated=estimated,
        sparse_mask=_sparse_mask(own),
    )


Moments = dict[int, tuple[Moment, ...]]


def _without_data(config: dict[str, Any]) -> Any:
    """The model of `config` on the meta device, in 2 bytes an element, ready to run."""
    model = meta_model(config)
    model.eval()
    cast(model, DTYPES[2])
    for one in (model.config, model.config.get_text_config()):
        # Ids would be searched for it, and there are none. Some configurations check what is set.
        vars(one)["pad_token_id"] = None
    return model


def _moments(config: dict[str, Any], sizes: list[int]) -> tuple[Moments, Moments, str]:
    """Moments of prefill and decode by the bytes of an element, and why they are only estimated.

    Layers that repeat others are left out where the model runs without them.
    """
    reason = ""
    for whole in (False, True):
        model = _without_data(config)
        if not whole:
            keep_kinds_of_layers(model)
        try:
            traced = {size: _traced(model, size) for size in sizes}
        except LengthError as error:
            reason = str(error)
            break
        except ModelError as error:
            reason = str(error)
            continue
        prefill = {size: found[0] for size, found in traced.items()}
        return prefill, {size: found[1] for size, found in traced.items()}, ""
    return (*_estimated(_without_data(config), sizes), reason)


def _traced(model: Any, size: int) -> tuple[tuple[Moment, ...], tuple[Moment, ...]]:
    own = model.config.get_text_config()
    longest = min(TRACED_TOKENS, _first(own, ("max_position_embeddings",), TRACED_TOKENS) - 1)
    if isinstance(own, Phi3SmallConfig):
        # Beyond it the sparse layers compute chunk by chunk, which needs less than the MLP does.
        longest = min(longest, BlockPattern.from_config(own).local_span - 1)
    window = _first(own, ("sliding_window",), 0)
    if window:
        longest = min(longest, window - 1)
    if size > 2 and fused_experts(model):
        # Without data, their products are known in 2 bytes only.
        return tuple(_scaled(found, size / 2) for found in _traced(model, 2))  # type: ignore[return-value]
    cast(model, DTYPES[size])
    return moments(model, longest)


def _scaled(found: tuple[Moment, ...], factor: float) -> tuple[Moment, ...]:
    def times(growth: Growth) -> Growth:
        return Growth(*(tuple(factor * c for c in part) for part in (growth.fixed, growth.each)))

    return tuple(Moment(times(one.growth), one.outputs, one.inputs) for one in found)


def _estimated(model: Any, sizes: list[int]) -> tuple[Moments, Moments]:
    """A layer's usual tensors at its widest: inputs, outputs, and a few of the residual stream."""
    own = model.config.get_text_config()
    widest = max((sum(shape) for shape in decoder_linears(model).values()), default=0)
    prefill: Moments = {}
    decode: Moments = {}
    for size in sizes:
        token, logits = float(size * (4 * own.hidden_size + 2 * widest)), 4.0 * own.vocab_size
        prefill[size] = (Moment(Growth((0.0, 0.0, 0.0), (logits, token, 0.0))),)
        decode[size] = (Moment(Growth((0.0, 0.0, 0.0), (logits + token, 0.0, 0.0))),)
    return prefill, decode


def _kept(model: Any) -> tuple[tuple[Attention, ...], int]:
    """What each layer caches, and elements of state, read off a run over a few tokens.

    A model that does not run on shapes alone is taken to keep what its configuration says.
    """
    own = model.config.get_text_config()
    layers = _first(own, ("num_hidden_layers",), 0)
    try:
        cache = short_cache(model)
    except ModelError:
        heads = _first(own, ("num_attention_heads",), 0)
        size = _first(own, ("head_dim",), own.hidden_size // heads if heads else 0)
        cached = 2 * _first(own, ("num_key_value_heads",), heads) * size
        return (Attention(layers, cached),), 0
    kinds: Counter[tuple[int, int, int]] = Counter()
    attended = 0
    found = next((kept.layers for kept in cache.values() if hasattr(kept, "layers")), ())
    for index, layer in enumerate(found[: layers or None]):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        cached = 0
        if keys is not None and values is not None and keys.dim() > 1 and keys.shape[-2]:
            cached = (keys.numel() + values.numel()) // keys.shape[-2]
            attended += keys.numel() + values.numel()
        kinds[(cached, *_window(own, index, layer))] += 1
    state = sum(tensor.numel() for tensor in kept_tensors(cache)) - attended
    return tuple(Attention(count, *kind) for kind, count in kinds.items()), state


def _window(config: Any, index: int, layer: Any) -> tuple[int, int]:
    """Window and stride of the attention of layer `index`; 0 where it attends to everything."""
    if isinstance(config, Phi3SmallConfig):
        if config.is_dense(index):
            return 0, 0
        pattern = BlockPattern.from_config(config)
        return pattern.local_span, pattern.vert_stride
    if getattr(layer, "is_sliding", False):
        return int(layer.sliding_window), 0
    return 0, 0


def _sparse_mask(config: Any) -> SparseMask | None:
    if not isinstance(config, Phi3SmallConfig):
        return None
    pattern = BlockPattern.from_config(config)
    return SparseMask(config.num_attention_heads, pattern.local_span, MASK_BUDGET, _MASK_BOOLEANS)


def _expert_share(config: Any) -> float:
    count = _first(config, _EXPERT_COUNTS, 0)
    return _first(config, ("num_experts_per_tok",), count) / count if count else 1.0


def _first(config: Any, names: tuple[str, ...], default: int) -> int:
    """The first of the attributes `names` that is a number, else `default`."""
    for name in names:
        try:
            value = getattr(config, name, None)
        except Exception:  # an attribute that differs from layer to layer is none of the whole
            continue
        if isinstance(value, int) and value > 0:
            return value
    return default
