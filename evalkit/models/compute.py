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
from evalkit.models.storage import parameter_count

# Methods whose layers are unpacked here or compute with quantized activations.
_KNOWN_METHODS = (None, "gptq", "awq", "bitsandbytes")
_LEAVE_FREE = 0.2


def for_scoring(loaded: Loaded, device: str) -> Loaded:
    """`loaded` with the arithmetic of the quality pass; on CUDA, and in float32, it is unchanged.

    Works in place: speed and memory of the variant itself are measured before. A model whose
    kernels have repacked their weights is loaded again.
    """
    in_float32 = loaded.model.dtype == torch.float32 and _is_plain(loaded.model)
    if in_float32 or not device.startswith("cpu"):
        return loaded
    refusal = _refusal(loaded.model)
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
    if _has_int8_layers(model):
        note = "quality on CPU: LLM.int8() layers as they are, everything else in float32"
        kernel = loaded.kernel
    return dataclasses.replace(loaded, model=model, kernel=kernel, notes=(*loaded.notes, note))


def _refusal(model: PreTrainedModel) -> str:
    method = _method(model)
    if method not in _KNOWN_METHODS:
        return f"layers of {method} are not unpacked to float32"
    needed = 4 * parameter_count(model)
    free = psutil.virtual_memory().available * (1 - _LEAVE_FREE)
    if needed > free:
        return f"float32 would need {needed / 1e9:.1f} GB of the {free / 1e9:.1f} GB free"
    return ""


def _method(model: PreTrainedModel) -> str | None:
    config: Any = getattr(model.config, "quantization_config", None)
    if config is None:
        return None
    method = config.get("quant_method") if isinstance(config, dict) else config.quant_method
    return str(getattr(method, "value", method))


def _is_plain(model: PreTrainedModel) -> bool:
    return all(isinstance(m, nn.Linear) and type(m) is nn.Linear for _, m in linear_modules(model))


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
    packed = {name: module for name, module in model.named_modules() if _is_weight_only(module)}
    for name, module in packed.items():
        model.set_submodule(name, _dense(module))
    return bool(packed)


def _is_weight_only(module: nn.Module) -> bool:
    return type(module).__name__ == "Linear4bit" or hasattr(module, "dequantize_weight")


@torch.inference_mode(False)
@torch.no_grad()
def _dense(module: Any) -> nn.Linear:
    weight = _weight_of_4bit(module) if hasattr(module, "quant_state") else _weight_of_gptq(module)
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
    """Float32 weights (outputs, inputs) of a GPTQ or AWQ layer, whose scales are float16."""
    module.scales = module.scales.float()
    # The instance's method may be compiled, which takes longer than the one call.
    weight: Tensor = type(module).dequantize_weight(module)
    return weight[: module.in_features, : module.out_features].t().float().contiguous()


def _has_int8_layers(model: PreTrainedModel) -> bool:
    return any(type(module).__name__ == "Linear8bitLt" for module in model.modules())
