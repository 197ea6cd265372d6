"""Which kernels run a model's linear layers, in words; never a silent fallback."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from evalkit.models.layers import linear_modules
from evalkit.models.shapes import is_router

# What the fused 4-bit CPU kernel of bitsandbytes can repack: rows and columns in these multiples.
_FUSED_ROWS, _FUSED_COLUMNS = 32, 64
# GPTQModel's kernel on torch's int4 operator takes any activations and computes in bfloat16.
_BFLOAT16_KERNELS = ("TorchAtenLinear", "TorchAtenAwqLinear")


def kernel_names(model: PreTrainedModel) -> str:
    """Class, weights and arithmetic of the linear layers, the most frequent first.

    Such as "Linear (float16)", "Linear8bitLt (int8 × int8, threshold 6)", "Linear4bit nf4
    (bfloat16, fused)", "MarlinLinear int4 g128 (float16)". Output head and routers are left out.
    """
    counts = Counter(
        _describe(module, model) for name, module in linear_modules(model) if not is_router(name)
    )
    return ", ".join(name for name, _ in counts.most_common())


def choose_cpu_kernels(model: PreTrainedModel) -> None:
    """Keep 4-bit layers that the fused CPU kernel of bitsandbytes cannot repack on the general one.

    It would fail at the first forward pass. On CUDA the switch has no meaning.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit" and (
            module.out_features % _FUSED_ROWS or module.in_features % _FUSED_COLUMNS
        ):
            module.support_avx512bf16_for_cpu = False


def _describe(module: nn.Module, model: PreTrainedModel) -> str:
    layer: Any = module
    name, dtype = type(module).__name__, dtype_name(model.dtype)
    if name == "Linear8bitLt":
        return f"{name} (int8 × int8, threshold {layer.state.threshold:g})"
    if name == "Linear4bit":
        fused = layer.weight.device.type == "cpu" and layer.support_avx512bf16_for_cpu
        compute = "bfloat16, fused" if fused else dtype_name(layer.compute_dtype)
        return f"{name} {layer.weight.quant_type} ({compute})"
    if hasattr(module, "qweight"):
        compute = "bfloat16" if name in _BFLOAT16_KERNELS else dtype
        return f"{name} int{layer.bits} g{layer.group_size} ({compute})"
    weight = getattr(module, "weight", None)
    if weight is None or type(weight.data) is not torch.Tensor:
        held = "compressed" if weight is None else type(weight.data).__name__
        return f"{name} {held} ({dtype})"
    return f"{name} ({dtype_name(weight.dtype)})"


def dtype_name(dtype: torch.dtype) -> str:
    """ "float16" for torch.float16."""
    return str(dtype).removeprefix("torch.")
