"""Packing what transformers leaves in floating point: fused experts, tied and derived layers.

transformers replaces plain linear layers while it reads the files. It has no layer for experts that
are one parameter, leaves layers alone that share their weights (Zamba), and those of a class of
their own (Falcon). Such a model is loaded whole into the memory of the CPU, and one module after
another is packed on its way to the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import bitsandbytes.functional
import bitsandbytes.nn
import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from evalkit.backends._bitsandbytes import FORMATS as LINEAR_FORMATS
from evalkit.backends._bitsandbytes import (
    empty_layer,
    parts_of_state,
    quantized_weight,
    same_weight,
)
from evalkit.backends._checks import LEAST_PACKED
from evalkit.models.layer_format import LayerFormat
from evalkit.models.packed_parameters import Unpacking, pack
from evalkit.models.text_stack import full_matrices, fused_experts, linear_shape, text_modules

_LARGEST = 127


class FourBit(Unpacking):
    """NF4 or FP4, a scale for 64 weights in the order they are stored."""

    def __init__(self, state: bitsandbytes.functional.QuantState) -> None:
        super().__init__(state.shape, state.dtype)
        self.quant_state = state
        self.method = str(state.quant_type)

    def forward(self, stored: Tensor) -> Tensor:
        """The weights in `dtype`."""
        self.quant_state.dtype = self.dtype
        weights: Tensor = bitsandbytes.functional.dequantize_4bit(stored, self.quant_state)
        return weights


class EightBit(Unpacking):
    """8-bit weights with a scale an output, without LLM.int8()'s 8-bit activations."""

    method = "int8 weights"

    def __init__(self, scales: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
        super().__init__(shape, dtype)
        self.register_buffer("scales", scales)
        self.scales: Tensor

    def forward(self, stored: Tensor) -> Tensor:
        """The weights in `dtype`."""
        return stored.to(self.dtype) * self.scales.to(self.dtype)


FORMATS = (
    *LINEAR_FORMATS,
    LayerFormat(
        "4-bit experts",
        lambda module: isinstance(module, FourBit),
        parts=lambda module: parts_of_state(module.quant_state),
    ),
)


def packs_enough(model: PreTrainedModel) -> bool:
    """Whether the linear layers that transformers packs by itself are enough of the text stack."""
    left = set(get_keys_to_not_convert(model))
    packed = sum(
        cast(Tensor, module.weight).numel()
        for name, module in _linears(model)
        if (isinstance(module, Conv1D) or type(module) is nn.Linear) and name not in left
    )
    return packed >= LEAST_PACKED * sum(w.numel() for w in full_matrices(model).values())


@torch.no_grad()
def convert(model: PreTrainedModel, config: BitsAndBytesConfig, device: str) -> None:
    """Pack linear layers and experts of `model`'s text stack, and move all of it to `device`."""
    shared: dict[int, nn.Parameter] = {}
    for name, module in [one for one in _linears(model) if _multiplies(one[1])]:
        model.set_submodule(name, _packed_linear(module, config, device, shared))
    for name in fused_experts(model):
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        pack(module, own, *_packed_experts(module, getattr(module, own).to(device), config))
    model.to(device)


def _linears(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers of the text stack, without those that a model keeps in float32."""
    kept = [*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())]
    for name, module in text_modules(model):
        if linear_shape(module) is not None and should_convert_module(name, kept):
            yield name, module


def _multiplies(module: Any) -> bool:
    """Whether a layer does what a linear layer does: a class of its own may do something else."""
    if type(module) in (nn.Linear, Conv1D):
        return True
    inputs = module.weight.new_ones(1, 1, module.in_features)
    try:
        wanted = nn.functional.linear(inputs, module.weight, module.bias)
        return torch.allclose(module(inputs), wanted, rtol=1e-2, atol=1e-2)
    except (RuntimeError, TypeError):
        return False


def _packed_linear(
    module: Any, config: BitsAndBytesConfig, device: str, shared: dict[int, nn.Parameter]
) -> nn.Module:
    """bitsandbytes' layer instead of `module`; `shared` are packed weights by what they were."""
    outputs, inputs = linear_shape(module) or (0, 0)
    with torch.device("meta"):
        layer = empty_layer(outputs, inputs, module.bias is not None, config)
    weight = module.weight
    if id(weight) in shared:
        layer.weight = same_weight(shared[id(weight)])
    else:
        full = weight.data.T.contiguous() if isinstance(module, Conv1D) else weight.data
        layer.weight = shared[id(weight)] = quantized_weight(layer, full, torch.device(device))
    if module.bias is not None:
        layer.bias = module.bias.to(device)
    return layer


def _packed_experts(
    module: nn.Module, weights: Tensor, config: BitsAndBytesConfig
) -> tuple[Tensor, Unpacking]:
    """What is stored of `weights` (experts, outputs, inputs), or (…, inputs, outputs)."""
    if config.load_in_4bit:
        stored, state = bitsandbytes.functional.quantize_4bit(
            weights.contiguous(),
            compress_statistics=config.bnb_4bit_use_double_quant,
            quant_type=config.bnb_4bit_quant_type,
        )
        return stored, FourBit(state)
    inputs = -2 if getattr(module, "is_transposed", False) else -1
    least = torch.finfo(weights.dtype).tiny
    scales = (weights.abs().amax(inputs, keepdim=True) / _LARGEST).clamp(min=least)
    codes = (weights / scales).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
    return codes, EightBit(scales, weights.shape, weights.dtype)
