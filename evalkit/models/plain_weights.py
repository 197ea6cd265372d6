"""The plain weights that a loaded model stands for, parameter by parameter, packed or not.

Names are those of the architecture as transformers builds it. GPTQModel splits fused projections
and experts before it quantizes: where a name is asked for that a model holds in parts, the parts
are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.errors import VariantError
from evalkit.models.layer_format import LayerFormat, format_of, unpacked
from evalkit.models.packed_parameters import unpackings
from evalkit.models.text_stack import is_full

# What a fused projection is made of, in the order of its outputs.
_FUSED = {"gate_up_proj": ("gate_proj", "up_proj"), "qkv_proj": ("q_proj", "k_proj", "v_proj")}


class PlainWeights:
    """Every weight of `model` by its name, unpacked when it is asked for and not kept.

    A parameter that is shared has all its names, so that a tied head has its own. Raises
    VariantError for packed layers that none of `formats` can unpack.
    """

    def __init__(self, model: nn.Module, formats: Sequence[LayerFormat] = ()) -> None:
        self._read = dict(_readers(model, formats))
        self._plain = {name for name, _ in model.named_parameters(remove_duplicate=False)}

    def is_plain(self, name: str) -> bool:
        """Whether the model holds the weights `name` just so, unpacked and in one."""
        return name in self._plain

    def __contains__(self, name: str) -> bool:
        return bool(self.stored_as(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __getitem__(self, name: str) -> Tensor:
        """The weights `name`, in float32 where they are packed; raises KeyError for none."""
        if name in self._read:
            return self._read[name]().detach()
        rows = self._parts(name)
        if not rows:
            raise KeyError(name)
        fused = [torch.cat([self[part] for part in row]) for row in rows]
        return torch.stack(fused) if _holds_experts(name) else fused[0]

    def stored_as(self, name: str) -> tuple[str, ...]:
        """The names under which the model itself holds the weights `name`; none where it does not.

        They are several where it has in parts what is one elsewhere.
        """
        if name in self._read:
            return (name,)
        return tuple(part for row in self._parts(name) for part in row)

    def _parts(self, name: str) -> list[tuple[str, ...]]:
        """Names of the parts of fused weights, for experts a row for each; none where unknown."""
        owner, _, leaf = name.removesuffix(".weight").rpartition(".")
        experts = _holds_experts(name)
        kinds = _FUSED.get(leaf, (leaf,) if experts else ())
        rows: list[tuple[str, ...]] = []
        while True:
            inside = f"{owner}.{len(rows)}" if experts else owner
            row = tuple(f"{inside}.{kind}.weight" for kind in kinds)
            if not row or any(part not in self._read for part in row):
                return rows
            rows.append(row)
            if not experts:
                return rows


@contextmanager
def exchanged(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """While the block runs, `model` computes with `weights` in place of its own of these names.

    A parameter is exchanged under one of its names only: a tied head keeps its weights when the
    embedding gets others. Shapes are the model's; dtype and device become so.
    """
    own: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for name, weight in weights.items():
            owner, _, leaf = name.rpartition(".")
            parameters = model.get_submodule(owner)._parameters
            mine = parameters[leaf]
            assert mine is not None
            own.append((parameters, leaf, mine))
            other = weight.to(device=mine.device, dtype=mine.dtype)
            parameters[leaf] = nn.Parameter(other, requires_grad=False)
        yield
    finally:
        for parameters, leaf, mine in reversed(own):
            parameters[leaf] = mine


def _readers(
    model: nn.Module, formats: Sequence[LayerFormat]
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Name of each weight, and what reads it."""
    packed: set[str] = set()
    for name, _ in unpackings(model):
        owner, _, leaf = name.rpartition(".")
        packed.add(f"{owner}.parametrizations.{leaf}.")
        yield name, partial(getattr, model.get_submodule(owner), leaf)
    for name, module in model.named_modules(remove_duplicate=False):
        one = format_of(module, formats) if hasattr(module, "in_features") else None
        if one is not None:
            packed.add(f"{name}.")
            yield from _unpacking(name, module, one)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if _prefixes(name) & packed:
            continue
        if not is_full(parameter):
            raise VariantError(f"its weights {name} are of no kind that is known to be unpacked")
        yield name, partial(_same, parameter)


def _unpacking(
    name: str, module: Any, one: LayerFormat
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    unpack = one.weights or one.unpack
    if unpack is None:
        raise VariantError(f"its {one.name} layers cannot be unpacked")
    yield f"{name}.weight", partial(unpacked, module, unpack)
    if module.bias is not None:
        yield f"{name}.bias", partial(_same, module.bias)


def _prefixes(name: str) -> set[str]:
    """All "a.", "a.b." that `name` begins with."""
    words = name.split(".")
    return {".".join(words[:count]) + "." for count in range(1, len(words))}


def _holds_experts(name: str) -> bool:
    return name.removesuffix(".weight").rpartition(".")[0].endswith("experts")


def _same(tensor: Tensor) -> Tensor:
    return tensor
