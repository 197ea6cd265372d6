"""The linear layers of torchao, whose weight is a tensor subclass: how they are unpacked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evalkit.models.layer_format import LayerFormat


def _is_weight_only(module: Any) -> bool:
    """Whether only weights are quantized: with quantized activations the method is more."""
    return _is_packed(module) and getattr(module.weight, "act_quant_kwargs", None) is None


def _is_packed(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return hasattr(weight, "__tensor_flatten__") and hasattr(weight, "dequantize")


def _unpack(layer: Any) -> Tensor:
    weight: Tensor = layer.weight.dequantize(torch.float32)
    return weight.contiguous()


FORMATS = (
    LayerFormat("torchao weight-only", _is_weight_only, unpack=_unpack),
    LayerFormat("torchao dynamic", _is_packed, weights=_unpack),
)
