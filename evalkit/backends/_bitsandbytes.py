"""The linear layers of bitsandbytes: how they are named, counted, unpacked and made at random."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from evalkit.models.kernels import dtype_name
from evalkit.models.layer_format import LayerFormat, Part
from evalkit.models.random_weights import DEVIATION, Memory

# It looks for a package that would download kernels from the hub; its absence is no news.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

import bitsandbytes.functional  # noqa: E402
import bitsandbytes.nn  # noqa: E402

# What the fused 4-bit CPU kernel can repack: rows and columns in these multiples.
_FUSED_ROWS, _FUSED_COLUMNS = 32, 64


def prepare_layers(model: PreTrainedModel) -> None:
    """Let the packed layers of `model` take what its code gives them, on CPU and CUDA.

    The fused CPU kernel would fail at the first pass of a 4-bit layer that it cannot repack: such
    layers are kept on the general one (on CUDA the switch has no meaning). 8-bit layers take
    inputs of two or three dimensions, and latent attention gives four.
    """
    for module in model.modules():
        if _is_8bit(module):
            vars(module)["forward"] = _of_any_shape(module.forward)
        if _is_4bit(module) and (
            module.out_features % _FUSED_ROWS or module.in_features % _FUSED_COLUMNS
        ):
            module.support_avx512bf16_for_cpu = False


def _of_any_shape(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(inputs: Tensor) -> Tensor:
        if inputs.dim() <= 3:
            return forward(inputs)
        return forward(inputs.flatten(0, -2)).unflatten(0, inputs.shape[:-1])

    return run


def fill_at_random(module: nn.Module, memory: Memory) -> bool:
    """Give a layer random weights, quantized as transformers does it; False for other modules."""
    if not (_is_8bit(module) or _is_4bit(module)):
        return False
    layer: Any = module
    layer.weight = random_weight(layer, memory.device)
    memory.give(layer)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return True


def random_weight(layer: Any, device: torch.device) -> Any:
    """A random quantized weight of the shape and settings of the layer's own, which is on meta."""
    full = torch.empty(layer.weight.shape, dtype=torch.float16, device=device)
    return quantized_weight(layer, full.normal_(0, DEVIATION), device)


def quantized_weight(layer: Any, full: Tensor, device: torch.device) -> Any:
    """`full` (outputs, inputs) quantized on `device` by the settings of the layer's own weight."""
    settings = dict(layer.weight.__dict__)
    if _is_4bit(layer):
        four = bitsandbytes.nn.Params4bit(full.to(device), requires_grad=False, **settings)
        return four.to(device)
    settings.pop("SCB", None)
    # LLM.int8() quantizes when a weight moves from the CPU to where it will be used.
    return bitsandbytes.nn.Int8Params(full.cpu(), requires_grad=False, **settings).to(device)


def same_weight(weight: Any) -> Any:
    """The quantized `weight` for another layer: an 8-bit one is emptied when its layer runs."""
    if isinstance(weight, bitsandbytes.nn.Int8Params):
        return bitsandbytes.nn.Int8Params(
            weight.data, requires_grad=False, CB=weight.CB, SCB=weight.SCB
        )
    return weight


def empty_layer(outputs: int, inputs: int, bias: bool, config: BitsAndBytesConfig) -> Any:
    """The layer that transformers would put in place by `config`, without its weights."""
    if config.load_in_8bit:
        return bitsandbytes.nn.Linear8bitLt(
            inputs, outputs, bias, has_fp16_weights=False, threshold=config.llm_int8_threshold
        )
    return bitsandbytes.nn.Linear4bit(
        inputs,
        outputs,
        bias,
        config.bnb_4bit_compute_dtype,
        compress_statistics=config.bnb_4bit_use_double_quant,
        quant_type=config.bnb_4bit_quant_type,
    )


def _is_8bit(module: nn.Module) -> bool:
    return isinstance(module, bitsandbytes.nn.Linear8bitLt)


def _is_4bit(module: nn.Module) -> bool:
    return isinstance(module, bitsandbytes.nn.Linear4bit)


def _kernel_8bit(layer: Any, dtype: torch.dtype) -> str:
    return f"{type(layer).__name__} (int8 × int8, threshold {layer.state.threshold:g})"


def _kernel_4bit(layer: Any, dtype: torch.dtype) -> str:
    fused = layer.weight.device.type == "cpu" and layer.support_avx512bf16_for_cpu
    compute = "bfloat16, fused" if fused else dtype_name(layer.compute_dtype)
    return f"{type(layer).__name__} {layer.weight.quant_type} ({compute})"


def _unpack_4bit(layer: Any) -> Tensor:
    # Unpacked in the state's data type; the scales themselves are float32.
    state = copy.copy(layer.weight.quant_state)
    state.dtype = torch.float32
    weight: Tensor = bitsandbytes.functional.dequantize_4bit(layer.weight.data, state)
    return weight.contiguous()


def _is_repacked(layer: Any) -> bool:
    return bool(getattr(layer.weight.quant_state, "packing_format_for_cpu", False))


def _parts_8bit(layer: Any) -> Iterator[Part]:
    """The scales of the rows, which move from the weight to the state when the layer runs."""
    for scale in (getattr(layer.weight, "SCB", None), layer.state.SCB):
        if isinstance(scale, Tensor):
            yield "scales", "SCB", scale


def _parts_4bit(layer: Any) -> Iterator[Part]:
    return parts_of_state(layer.weight.quant_state)


def parts_of_state(state: Any) -> Iterator[Part]:
    """Scales and tables that a 4-bit weight holds beside its packed words."""
    # Double quantization holds the scales of the scales in a second state.
    for level in (state, getattr(state, "state2", None)):
        if level is not None:
            yield "scales", "absmax", level.absmax
            yield "codebook", "code", level.code
    if isinstance(offset := getattr(state, "offset", None), Tensor):
        yield "scales", "offset", offset


def _weights_8bit(layer: Any) -> Tensor:
    """Codes times the largest value of their row over 127, as they are before and after a pass."""
    state, weight = layer.state, layer.weight
    codes = next(one for one in (state.CB, weight.CB, weight.data) if one is not None)
    scales = weight.SCB if state.SCB is None else state.SCB
    return codes.float() * (scales.float() / 127)[:, None]


FORMATS = (
    LayerFormat(
        "LLM.int8()",
        _is_8bit,
        kernel=_kernel_8bit,
        weights=_weights_8bit,
        runs_as_is=True,
        parts=_parts_8bit,
    ),
    LayerFormat(
        "4-bit",
        _is_4bit,
        kernel=_kernel_4bit,
        unpack=_unpack_4bit,
        is_repacked=_is_repacked,
        parts=_parts_4bit,
    ),
)
