"""How a library holds its quantized linear layers: declared by the backend that loads them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# What a tensor is for ("scales", "codebook"), its name, and the tensor.
Part = tuple[str, str, Tensor]


@dataclass(frozen=True)
class LayerFormat:
    """One kind of quantized linear layer: how it is recognised, named, counted and unpacked.

    `name` is the method's ("LLM.int8()"), and `matches` says whether a module is such a layer.
    `kernel` describes what runs it, of the layer and the model's dtype, where class and weight do
    not tell. `unpack` gives the float32 weights (outputs, inputs) that the layer stands for,
    exactly; without it the quality pass uses the model's own kernels. A method that is more than
    its weights (LLM.int8() quantizes activations) has `weights` instead, which gives them the same
    way where they are looked at alone. `runs_as_is` says that its layers run unchanged in a model
    that is in float32 otherwise. `is_repacked` says that a kernel has changed the stored weights
    since they were loaded. `parts` are the tensors it holds beside parameters and buffers, each
    with its category of `evalkit.models.storage.weight_bytes`.
    """

    name: str
    matches: Callable[[Any], bool]
    kernel: Callable[[Any, torch.dtype], str] | None = None
    unpack: Callable[[Any], Tensor] | None = None
    weights: Callable[[Any], Tensor] | None = None
    runs_as_is: bool = False
    is_repacked: Callable[[Any], bool] | None = None
    parts: Callable[[Any], Iterable[Part]] | None = None


def format_of(module: nn.Module, formats: Sequence[LayerFormat]) -> LayerFormat | None:
    """The first of `formats` that `module` is in, or None for a layer of none of them."""
    return next((one for one in formats if one.matches(module)), None)


def unpacked(module: Any, unpack: Callable[[Any], Tensor]) -> Tensor:
    """The weights that `unpack` gives for `module`, which is left as it is.

    Some formats change what they read.
    """
    own = copy.copy(module)
    own._parameters, own._buffers = dict(module._parameters), dict(module._buffers)
    return unpack(own)
