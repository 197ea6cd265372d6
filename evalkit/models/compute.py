"""Arithmetic of the quality pass: on CPU in float32, so that it is exact and fast.

CPUs multiply float16 matrices slowly, and CPU kernels for packed weights compute in bfloat16,
whose rounding would be measured as if it were the quantizer's. The weights' values are the same:
16-bit weights are cast up, packed weights are unpacked as their backend says. Layers of a method
that quantizes activations run as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from evalkit.errors import ModelError
from evalkit.models.kv_cache import full_kv_cache
from evalkit.models.layer_format import LayerFormat, format_of, unpacked
from evalkit.models.layers import linear_modules
from evalkit.models.loading import Loaded
from evalkit.models.offload import offloaded
from evalkit.models.packed_parameters import unpack_all, unpackings
from evalkit.models.storage import parameter_count

_LEAVE_FREE = 0.2


def for_scoring(loaded: Loaded, device: str) -> Loaded:
    """`loaded` with the arithmetic of the quality pass; on CUDA, and in float32, it is unchanged.

    Works in place: speed and memory of the variant itself are measured before. A model whose
    kernels have repacked their weights is loaded again. A second call gives the same answer.
    """
    if loaded.scoring is None:
        loaded.scoring = _for_scoring(loaded, device)
    return loaded.scoring


def _for_scoring(loaded: Loaded, device: str) -> Loaded:
    formats = _formats(loaded)
    in_float32 = loaded.model.dtype == torch.float32 and formats <= {None}
    if (in_float32 and not _unknown_layers(loaded)) or not device.startswith("cpu"):
        return loaded
    refusal = _refusal(loaded, formats)
    if refusal:
        note = f"quality is measured with the variant's own kernels: {refusal}"
        return dataclasses.replace(loaded, notes=(*loaded.notes, note))
    model = fresh(loaded)
    unpacked = _unpack(model, loaded.formats)
    unpacked |= unpack_all(model, torch.float32)
    # transformers forbids float() on quantized models for fear of casting packed weights, which
    # are integers here and stay as they are.
    nn.Module.float(model)
    model.config.dtype = torch.float32
    note = "quality on CPU: the same weights in float32 arithmetic"
    kernel = f"{loaded.kernel} as Linear (float32)" if unpacked else "Linear (float32)"
    unchanged = sorted(one.name for one in formats if one is not None and one.runs_as_is)
    if unchanged:
        names = " and ".join(unchanged)
        note = f"quality on CPU: {names} layers as they are, everything else in float32"
        kernel = loaded.kernel
    return dataclasses.replace(loaded, model=model, kernel=kernel, notes=(*loaded.notes, note))


@contextlib.contextmanager
def weights_only(
    loaded: Loaded, dtype: torch.dtype, *, activations: bool = False
) -> Iterator[bool]:
    """While the block runs, the model computes in `dtype` with the values of its packed weights.

    So what the quantizer did to the weights is told apart from what the kernels round. A layer is
    unpacked when it runs and no copy of it kept, so that memory for one layer is all that this
    takes, and for what was not quantized. False, and nothing is changed, where layers cannot be
    unpacked or there are none. With `activations` methods that quantize these as well are unpacked
    too, and their activations are in `dtype`.
    """
    formats = _formats(loaded)
    packed = [one for one in formats if one is not None]
    known = packed and all(_unpacks(one, activations) for one in packed)
    changed = any(_is_repacked(module, loaded) for module in loaded.model.modules())
    if not known or changed or _unknown_layers(loaded) or offloaded(loaded.model):
        yield False
        return
    layers = {
        module: unpack
        for _, module in linear_modules(loaded.model)
        if (one := format_of(module, loaded.formats)) is not None
        and (unpack := _unpacks(one, activations)) is not None
    }
    own = [parameter for module in layers for parameter in module.parameters(recurse=False)]
    kept = _floating(loaded.model, {id(parameter) for parameter in own})
    experts = [(one, one.dtype) for _, one in unpackings(loaded.model)]
    forwards = {module: vars(module).get("forward") for module in layers}
    try:
        for parameter, data in kept:
            parameter.data = data.to(dtype)
        for unpacking, _ in experts:
            unpacking.dtype = dtype
        for module, unpack in layers.items():
            module.forward = _unpacked_forward(module, unpack, dtype)
        with full_kv_cache(loaded.model):
            yield True
    finally:
        for unpacking, own_dtype in experts:
            unpacking.dtype = own_dtype
        for module, forward in forwards.items():
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward
        for parameter, data in kept:
            parameter.data = data


def _unpacks(one: LayerFormat, activations: bool) -> Callable[[Any], Tensor] | None:
    """What gives the weights of a layer; None where it is more than them, but for `activations`."""
    if activations:
        return one.weights or one.unpack
    return None if one.runs_as_is else one.unpack


def _floating(model: nn.Module, without: set[int]) -> list[tuple[nn.Parameter, Tensor]]:
    """Plain floating point parameters and their data, those of `without` left out."""
    return [
        (parameter, parameter.data)
        for parameter in model.parameters()
        if id(parameter) not in without and parameter.is_floating_point()
    ]


def _unpacked_forward(
    module: Any, unpack: Callable[[Any], Tensor], dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    def forward(inputs: Tensor) -> Tensor:
        bias = None if module.bias is None else module.bias.to(dtype)
        return nn.functional.linear(inputs, unpacked(module, unpack).to(dtype), bias)

    return forward


def _formats(loaded: Loaded) -> set[LayerFormat | None]:
    """The formats that occur among the linear layers; None stands for layers without one."""
    return {format_of(module, loaded.formats) for _, module in linear_modules(loaded.model)}


def _unknown_layers(loaded: Loaded) -> bool:
    """Whether there are linear layers that are neither plain nor of a format the backend knows."""
    return any(
        format_of(module, loaded.formats) is None and not _is_plain(module)
        for _, module in linear_modules(loaded.model)
    )


def _is_plain(module: nn.Module) -> bool:
    weight: Any = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or hasattr(weight, "__tensor_flatten__"):
        return False
    return weight.is_floating_point()


def _refusal(loaded: Loaded, formats: set[LayerFormat | None]) -> str:
    if offloaded(loaded.model):
        return "parts of it are offloaded"
    packed = [one for one in formats if one is not None and not one.runs_as_is]
    if _unknown_layers(loaded) or any(one.unpack is None for one in packed):
        return "they are not of a kind that is unpacked to float32"
    needed = 4 * parameter_count(loaded.model)
    free = psutil.virtual_memory().available * (1 - _LEAVE_FREE)
    if needed > free:
        return f"float32 would need {needed / 1e9:.1f} GB of the {free / 1e9:.1f} GB free"
    return ""


def fresh(loaded: Loaded) -> PreTrainedModel:
    """The model with weights as in the checkpoint, loaded again where kernels have changed them."""
    if not any(_is_repacked(module, loaded) for module in loaded.model.modules()):
        return loaded.model
    if loaded.reload is None:
        raise ModelError("the model has run with kernels that repack its weights: load it again")
    return loaded.reload()


def _is_repacked(module: nn.Module, loaded: Loaded) -> bool:
    one = format_of(module, loaded.formats)
    return one is not None and one.is_repacked is not None and one.is_repacked(module)


def _unpack(model: PreTrainedModel, formats: tuple[LayerFormat, ...]) -> bool:
    """Replace packed layers by plain ones of the same weights; False where there are none."""
    packed = {
        name: (module, one.unpack)
        for name, module in linear_modules(model)
        if (one := format_of(module, formats)) is not None and one.unpack is not None
    }
    for name, (module, unpack) in packed.items():
        with torch.inference_mode(False), torch.no_grad():
            model.set_submodule(name, _dense(module, unpack(module)))
    return bool(packed)


def _dense(module: Any, weight: Tensor) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if module.bias is not None:
        linear.bias = nn.Parameter(module.bias.detach().float(), requires_grad=False)
    return linear
