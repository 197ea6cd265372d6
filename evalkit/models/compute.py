"""Arithmetic of the quality pass: on CPU in float32, so that it is exact and fast.

CPUs multiply float16 matrices slowly, and CPU kernels for packed weights compute in bfloat16,
whose rounding would be measured as if it were the quantizer's. The weights' values are the same:
16-bit weights are cast up, weights packed in 4 bit are unpacked. LLM.int8() quantizes activations
as part of the method, so its layers run as they are.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from evalkit.errors import ModelError
from evalkit.models.layers import linear_modules
from evalkit.models.loading import Loaded
from evalkit.models.offload import offloaded
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
    kinds = {_kind(module) for _, module in linear_modules(loaded.model)}
    in_float32 = loaded.model.dtype == torch.float32 and kinds <= {"plain"}
    if in_float32 or not device.startswith("cpu"):
        return loaded
    refusal = _refusal(loaded.model, kinds)
    if refusal:
        note = f"quality is measured with the variant's own kernels: {refusal}"
        return dataclasses.replace(loaded, notes=(*loaded.notes, note))
    model = _fresh(loaded)
    unpacked = _unpack(model)
    # transformers forbids float() on quantized models for fear of casting packed weights, which
    # are integers here and stay as they are.
    nn.Module.float(model)
    model.config.dtype = torch.float32
    for name in ("autograd._functions", "nn.modules"):
        logging.getLogger(f"bitsandbytes.{name}").setLevel(logging.ERROR)
    note = "quality on CPU: the same weights in float32 arithmetic"
    kernel = f"{loaded.kernel} as Linear (float32)" if unpacked else "Linear (float32)"
    if "int8" in kinds:
        note = "quality on CPU: LLM.int8() layers as they are, everything else in float32"
        kernel = loaded.kernel
    return dataclasses.replace(loaded, model=model, kernel=kernel, notes=(*loaded.notes, note))


def _refusal(model: PreTrainedModel, kinds: set[str]) -> str:
    if offloaded(model):
        return "parts of it are offloaded"
    if "unknown" in kinds:
        return "they are not of a kind that is unpacked to float32"
    needed = 4 * parameter_count(model)
    free = psutil.virtual_memory().available * (1 - _LEAVE_FREE)
    if needed > free:
        return f"float32 would need {needed / 1e9:.1f} GB of the {free / 1e9:.1f} GB free"
    return ""


def _kind(module: nn.Module) -> str:
    """How a linear layer is treated: plain, 4-bit, gptq, awq, int8, torchao, or unknown."""
    name = type(module).__name__
    if name in ("Linear4bit", "Linear8bitLt"):
        return "4-bit" if name == "Linear4bit" else "int8"
    if hasattr(module, "awq_weight_dequantize"):
        return "awq"
    if hasattr(module, "dequantize_weight"):
        return "gptq"
    weight: Any = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return "unknown"
    if hasattr(weight, "__tensor_flatten__"):
        # With quantized activations the method is more than its weights.
        weight_only = getattr(weight, "act_quant_kwargs", None) is None
        return "torchao" if weight_only and hasattr(weight, "dequantize") else "unknown"
    return "plain" if weight.is_floating_point() else "unknown"


def _fresh(loaded: Loaded) -> PreTrainedModel:
    """The model with weights as in the checkpoint, loaded again where kernels have changed them."""
    if not any(_has_repacked(module) for module in loaded.model.modules()):
        return loaded.model
    if loaded.reload is None:
        raise ModelError("the model has run with kernels that repack its weights: load it again")
    return loaded.reload()


def _has_repacked(module: nn.Module) -> bool:
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    packed_4bit = getattr(state, "packing_format_for_cpu", False)
    return bool(packed_4bit or getattr(module, "linear_mode", None) == "inference")


def _unpack(model: PreTrainedModel) -> bool:
    """Replace weight-only layers by plain ones of the same weights; False where there are none."""
    packed = {name: module for name, module in linear_modules(model) if _kind(module) in _WEIGHTS}
    for name, module in packed.items():
        model.set_submodule(name, _dense(module))
    return bool(packed)


@torch.inference_mode(False)
@torch.no_grad()
def _dense(module: Any) -> nn.Linear:
    weight = _WEIGHTS[_kind(module)](module)
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if module.bias is not None:
        linear.bias = nn.Parameter(module.bias.detach().float(), requires_grad=False)
    return linear


def _weight_of_4bit(module: Any) -> Tensor:
    """Float32 weights (outputs, inputs) of a bitsandbytes 4-bit layer."""
    import bitsandbytes.functional

    # Unpacked in the state's data type; the scales themselves are float32.
    state = copy.copy(module.weight.quant_state)
    state.dtype = torch.float32
    weight: Tensor = bitsandbytes.functional.dequantize_4bit(module.weight.data, state)
    return weight.contiguous()


def _weight_of_gptq(module: Any) -> Tensor:
    """Float32 weights (outputs, inputs) of a GPTQ layer, whose scales are float16."""
    module.scales = module.scales.float()
    # The instance's method may be compiled, which takes longer than the one call.
    weight: Tensor = type(module).dequantize_weight(module)
    return weight[: module.in_features, : module.out_features].t().float().contiguous()


def _weight_of_awq(module: Any) -> Tensor:
    """Float32 weights (outputs, inputs) of an AWQ layer, whose scales are float16."""
    module.scales = module.scales.float()
    weight: Tensor = module.awq_weight_dequantize(device=module.scales.device, dtype=torch.float32)
    return weight.t().contiguous()


def _weight_of_torchao(module: Any) -> Tensor:
    """Float32 weights (outputs, inputs) of a weight-only layer of torchao."""
    weight: Tensor = module.weight.dequantize(torch.float32)
    return weight.contiguous()


_WEIGHTS = {
    "4-bit": _weight_of_4bit,
    "gptq": _weight_of_gptq,
    "awq": _weight_of_awq,
    "torchao": _weight_of_torchao,
}
