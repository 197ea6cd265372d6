"""Running a model from one of its layers on: what the layers before gave is kept.

How a layer is called (masks, positions, kinds of attention) differs from architecture to
architecture and is not rebuilt here: the model's own forward runs, in which the layers before
answer with what they gave in a whole pass. Where layers hand something on beside their hidden
states (keys shared by later layers, a state), a pass from there would lack it. So each layer is
tried on a few tokens, and a pass begins at the nearest layer before for which that holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.errors import is_out_of_memory
from evalkit.scoring.head import Forward, answering
from evalkit.scoring.rounding import row_difference

Rows = Callable[[Tensor, "Tensor | None"], Tensor]
# Of hidden states that the same kernels compute again from the same states.
_LARGEST_DIFFERENCE = 1e-5
_TRIED = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class PartialForward(Forward):
    """A forward whose rows come from `made`, of ids (batch, length) and an attention mask."""

    made: Rows | None = None

    def rows(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rows (batch, length, width) of `ids` (batch, length)."""
        assert self.made is not None
        return self.made(ids, mask)


class _EnoughError(Exception):
    """The layer that was asked for has run."""


class Boundaries:
    """What each of `layers` gave in one pass of `forward`, kept on the host, and passes from there.

    `starts[i]` is the layer from which a pass begins where layer i is the first that is another; it
    is i, or a layer before.
    """

    def __init__(self, forward: Forward, layers: Sequence[nn.Module]) -> None:
        self.forward = forward
        self.layers = layers
        self.outputs: list[Any] = [None] * len(layers)
        self.last: Tensor | None = None
        self._read: tuple[Tensor, Tensor | None]
        self.starts = list(range(len(layers) + 1))

    def recording(self) -> PartialForward:
        """A whole pass that keeps what the layers give, and the final rows."""
        return self._partial(self._recorded)

    def from_layer(self, first: int) -> PartialForward:
        """A pass in which the first layer that may differ from the recorded one is `first`."""
        start = self.starts[first]
        return self._partial(lambda ids, mask: self._replayed(start, ids, mask))

    def head_alone(self) -> PartialForward:
        """The recorded final rows: nothing but the output head may differ."""
        return self._partial(lambda ids, mask: self._final())

    def behind(self, layer: int) -> Tensor:
        """The hidden states that `layer` gives now for what it was given, on the host."""
        found: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            found.append(hidden_states(output).detach().cpu())
            raise _EnoughError

        handle = self.layers[layer].register_forward_hook(keep)
        try:
            with contextlib.suppress(_EnoughError):
                self._replayed(self.starts[layer], *self._read)
        finally:
            handle.remove()
        return found[0]

    @contextlib.contextmanager
    def moved(self, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """While the block runs, the kept hidden states behind `layer` are `change` of them."""
        kept = self.outputs[layer]
        self.outputs[layer] = _with_hidden(kept, change(hidden_states(kept)))
        try:
            yield
        finally:
            self.outputs[layer] = kept

    @torch.inference_mode()
    def try_starts(self, ids: Tensor) -> None:
        """Find the `starts` on the ids (1, length): a pass from there equals a whole one."""
        whole = self._recorded(ids, None)
        start = 0
        for layer in range(len(self.layers) + 1):
            start = layer if self._holds(layer, ids, whole) else start
            self.starts[layer] = start

    def _holds(self, start: int, ids: Tensor, whole: Tensor) -> bool:
        try:
            rows = self._replayed(start, ids, None)
        except _TRIED as error:
            if is_out_of_memory(error):
                raise
            return False
        return row_difference(rows, whole) <= _LARGEST_DIFFERENCE

    def _partial(self, made: Rows) -> PartialForward:
        own = {f.name: getattr(self.forward, f.name) for f in dataclasses.fields(Forward)}
        return PartialForward(**own, made=made)

    def _recorded(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        def hook(index: int) -> Callable[..., None]:
            def keep(module: nn.Module, args: Any, output: Any) -> None:
                self.outputs[index] = _mapped(output, lambda tensor: tensor.to("cpu", copy=True))

            return keep

        handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(self.layers)]
        try:
            rows = self._whole(ids, mask)
        finally:
            for handle in handles:
                handle.remove()
        self.last, self._read = rows.detach().cpu(), (ids, mask)
        return rows

    def _replayed(self, start: int, ids: Tensor, mask: Tensor | None) -> Tensor:
        if not start:
            return self._whole(ids, mask)
        output = _mapped(self.outputs[start - 1], lambda tensor: tensor.to(ids.device, copy=True))
        with contextlib.ExitStack() as replaced:
            for layer in self.layers[:start]:
                replaced.enter_context(answering(layer, output))
            return self._whole(ids, mask)

    def _whole(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        output = self.forward.body(input_ids=ids, attention_mask=mask, use_cache=False)
        rows: Tensor = output.logits if self.forward.head is None else output.last_hidden_state
        return rows

    def _final(self) -> Tensor:
        assert self.last is not None
        return self.last.to(self.forward.model.device)


def hidden_states(output: Any) -> Tensor:
    """Of what a layer gives the hidden states: all of it, or the first."""
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def _mapped(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(output, Tensor):
        return change(output.detach())
    if isinstance(output, tuple | list):
        return type(output)(_mapped(one, change) for one in output)
    return output
