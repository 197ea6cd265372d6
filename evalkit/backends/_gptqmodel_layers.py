"""The linear layers of GPTQModel, GPTQ and AWQ: how they are named, unpacked and made at random."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.models.kernels import dtype_name
from evalkit.models.layer_format import LayerFormat
from evalkit.models.random_weights import DEVIATION, Memory

# The kernels on torch's int4 operator take any activations and compute in bfloat16.
_BFLOAT16_KERNELS = ("TorchAtenLinear", "TorchAtenAwqLinear")

# The kernels that hold AWQ's words in the order of the checkpoint until they first run.
_AWQ_AS_STORED = ("TorchAtenAwqLinear", "AwqTorchLinear", "AwqGEMMTritonLinear")


def fill_at_random(module: nn.Module, memory: Memory) -> bool:
    """Give a layer random packed weights, symmetric around zero; False for other modules."""
    if not hasattr(module, "qweight"):
        return False
    memory.give(module)
    layer: Any = module
    layer.qweight.random_(-(2**31), 2**31 - 1)
    # GPTQ stores zero points less one.
    code = 2 ** (layer.bits - 1) - int(hasattr(layer, "g_idx"))
    layer.qzeros.copy_(_constant_zeros(layer.qzeros, layer.bits, code))
    # Codes are uniform: their standard deviation is 2^bits / √12.
    layer.scales.fill_(DEVIATION * math.sqrt(12) / 2**layer.bits)
    if hasattr(layer, "g_idx"):
        columns = torch.arange(layer.in_features, dtype=torch.int32) // layer.group_size
        if layer.desc_act:
            columns = columns[torch.randperm(layer.in_features)]
        layer.g_idx.copy_(columns)
    if layer.bias is not None:
        layer.bias.zero_()
    return True


def _constant_zeros(zeros: Tensor, bits: int, code: int) -> Tensor:
    """Packed zero points that are all `code`, as `zeros` is shaped."""
    stream = sum(code << (bits * position) for position in range(32))
    words = [(stream >> (32 * index)) & 0xFFFFFFFF for index in range(bits)]
    signed = torch.tensor([word - 2**32 if word >= 2**31 else word for word in words])
    row = signed.to(torch.int32).repeat(math.ceil(zeros.shape[1] / bits))[: zeros.shape[1]]
    return row.expand_as(zeros)


def _kernel(layer: Any, dtype: torch.dtype) -> str:
    name = type(layer).__name__
    compute = "bfloat16" if name in _BFLOAT16_KERNELS else dtype_name(dtype)
    return f"{name} int{layer.bits} g{layer.group_size} ({compute})"


def _unpack_gptq(layer: Any) -> Tensor:
    # The scales are float16, in which the product with a code would be rounded.
    layer.scales = layer.scales.float()
    # The instance's method may be compiled, which takes longer than the one call.
    weight: Tensor = type(layer).dequantize_weight(layer)
    return weight[: layer.in_features, : layer.out_features].t().float().contiguous()


def _unpack_awq(layer: Any) -> Tensor:
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    weight: Tensor = dequantize_gemm(
        layer.qweight, layer.qzeros, layer.scales.float(), layer.bits, layer.group_size
    )
    return weight.t().contiguous()


def _is_repacked(layer: Any) -> bool:
    return getattr(layer, "linear_mode", None) == "inference"


FORMATS = (
    LayerFormat(
        "AWQ",
        lambda module: type(module).__name__ in _AWQ_AS_STORED,
        kernel=_kernel,
        unpack=_unpack_awq,
        is_repacked=_is_repacked,
    ),
    LayerFormat(
        "GPTQ",
        lambda module: hasattr(module, "dequantize_weight"),
        kernel=_kernel,
        unpack=_unpack_gptq,
        is_repacked=_is_repacked,
    ),
    # Kernels that hold their weights in an order of their own cannot unpack them.
    LayerFormat("packed", lambda module: hasattr(module, "qweight"), kernel=_kernel),
)
