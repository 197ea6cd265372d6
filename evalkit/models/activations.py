"""Bytes alive in a forward pass, operation by operation, from the architecture alone.

The model's own code runs on the meta device, where tensors have shapes and no memory. Runs at a
few batches and lengths give, for every operation, the polynomial that holds at all of them.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from evalkit.analysis.architecture import Growth, Moment
from evalkit.errors import ModelError
from evalkit.models.caches import kept_of, kept_tensors, last_logits_only
from evalkit.models.shapes import decoder_linears

BATCHES = (1, 2)
LENGTHS = 3
# Tokens of a run that only shows what is kept.
SHORT = 8


class LengthError(ModelError):
    """A model runs other operations at other lengths, whichever of its layers are left out."""


@dataclass(frozen=True)
class Trace:
    """Bytes alive after each operation, and the widths of the linear layer it belongs to."""

    alive: NDArray[np.float64]
    widths: tuple[tuple[int, int], ...]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages made since it began that are still referenced."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.linear = (0, 0)
        self.alive: list[int] = []
        self.widths: list[tuple[int, int]] = []
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _key(tensor) not in known | self._sizes.keys():
                self._add(tensor)
        self.alive.append(self.now)
        self.widths.append(self.linear)
        return result

    def take(self) -> Trace:
        """What was recorded since the last call."""
        trace = Trace(np.asarray(self.alive, dtype=np.float64), tuple(self.widths))
        self.alive, self.widths = [], []
        return trace

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = _key(tensor), storage.nbytes()
        self._sizes[key] = size
        self.now += size
        weakref.finalize(storage, self._free, key).atexit = False

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def moments(model: Any, longest: int) -> tuple[tuple[Moment, ...], tuple[Moment, ...]]:
    """Moments of prefill and of decode of `model`, which is on the meta device.

    Lengths up to `longest` tokens are tried; attention must take the same path at all of them.
    Raises ModelError where the model's code cannot run without data.
    """
    lengths = [max(1, longest // LENGTHS) * (k + 1) for k in range(LENGTHS)]
    points = list(itertools.product(BATCHES, lengths))
    traces = [_trace(model, batch, length) for batch, length in points]
    prefill, decode = zip(*traces, strict=True)
    return _fitted(points, prefill), _fitted(points, decode)


def keep_kinds_of_layers(model: Any) -> None:
    """Drop decoder layers that only repeat others: the same tensors are alive in each of them.

    The first two stay, so that one runs behind another.
    """
    lists = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    if not lists:
        return
    folder = max(lists, key=lambda name: sum(p.numel() for p in lists[name].parameters()))
    layers = lists[folder]
    kinds: dict[tuple[Any, ...], nn.Module] = {}
    for layer in layers:
        kinds.setdefault(tuple((n, p.shape) for n, p in layer.named_parameters()), layer)
    kept = dict.fromkeys([*list(layers)[:2], *kinds.values()])
    model.set_submodule(folder, nn.ModuleList(kept))


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Give all parameters `dtype`, and leave buffers as they are, as loading a checkpoint does."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def short_cache(model: Any) -> dict[str, Any]:
    """What `model`, which is on the meta device, keeps of a few tokens; see `kept_of`."""
    ids = torch.zeros((1, SHORT), dtype=torch.long, device="meta")
    with torch.inference_mode(), _explained(model):
        return kept_of(model(input_ids=ids, use_cache=True, **last_logits_only(model)))


def _trace(model: Any, batch: int, length: int) -> tuple[Trace, Trace]:
    ids = torch.zeros((batch, length), dtype=torch.long, device="meta")
    last = last_logits_only(model)
    with (
        torch.inference_mode(),
        _explained(model),
        LiveBytes() as live,
        _linear_marks(model, live),
    ):
        output = model(input_ids=ids, use_cache=True, **last)
        prefill, cache = live.take(), kept_of(output)
        kept = cache_bytes(cache)
        del output
        model(input_ids=ids[:, :1], use_cache=True, **cache)
        decode = live.take()
    # After the step the cache holds the new token as well.
    return _without(prefill, kept), _without(decode, cache_bytes(cache))


@contextmanager
def _explained(model: Any) -> Iterator[None]:
    """What the model's code cannot do without data, or without a KV cache, as one line."""
    try:
        yield
    except Exception as error:  # foreign code fails without data in every way
        first = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise ModelError(
            f"{type(model).__name__} cannot be planned: it does not run on shapes alone ({first})"
        ) from error


def _without(trace: Trace, cache: float) -> Trace:
    return Trace(trace.alive - cache, trace.widths)


def cache_bytes(cache: Any) -> float:
    """Bytes of keys, values and states in what `kept_of` found, or in a transformers cache."""
    return float(sum(tensor.numel() * tensor.element_size() for tensor in kept_tensors(cache)))


@contextmanager
def _linear_marks(model: nn.Module, live: LiveBytes) -> Iterator[None]:
    """Tell `live` which linear layer of the decoder runs."""

    def enter(linear: tuple[int, int]) -> Any:
        return lambda *_: setattr(live, "linear", linear)

    handles = []
    for name, widths in decoder_linears(model).items():
        module = model.get_submodule(name)
        handles.append(module.register_forward_pre_hook(enter(widths)))
        handles.append(module.register_forward_hook(lambda *_: setattr(live, "linear", (0, 0))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fitted(points: list[tuple[int, int]], traces: tuple[Trace, ...]) -> tuple[Moment, ...]:
    """The moments that are largest somewhere, one polynomial for each operation."""
    if len({trace.widths for trace in traces}) > 1:
        raise LengthError("the model runs other operations at other lengths: it cannot be planned")
    powers = range(LENGTHS)
    rows = [[b**i * float(n) ** k for i in (0, 1) for k in powers] for b, n in points]
    solved = np.linalg.solve(np.asarray(rows), np.stack([trace.alive for trace in traces]))
    # Bytes are whole; what the solver leaves beside them would grow with the square of the length.
    found = np.round(solved, 6).T
    kept: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
    for widths, coefficients in zip(traces[0].widths, found, strict=True):
        others = kept.setdefault(widths, [])
        if any((other >= coefficients).all() for other in others):
            continue
        others[:] = [other for other in others if not (coefficients >= other).all()]
        others.append(coefficients)
    return tuple(
        Moment(_growth(coefficients), *widths)
        for widths, group in kept.items()
        for coefficients in group
    )


def _growth(coefficients: NDArray[np.float64]) -> Growth:
    numbers = [float(number) for number in coefficients]
    return Growth(tuple(numbers[:LENGTHS]), tuple(numbers[LENGTHS:]))


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
