"""`--weights random`: the real architecture at full size, for speed and memory before a download.

The model is laid out on the meta device, its linear layers are replaced by the quantizer's own
modules, and then one module after another gets random weights directly on the device. A layer is
in 16 bit only while it is quantized itself; the whole model never is, unless that is the variant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.quantizers import AutoHfQuantizer

from evalkit.models.layers import linear_modules
from evalkit.models.loading import quiet
from evalkit.models.shapes import is_router, meta_model

NOTE = "random weights: speed and memory are real, quality is not measured"
# The usual standard deviation at initialisation, for packed weights as for others.
_DEVIATION = 0.02


@torch.no_grad()
def random_model(
    config: dict[str, Any],
    *,
    dtype: torch.dtype,
    device: str,
    seed: int = 0,
    quantization_config: Any = None,
    packed: bool = False,
    convert: Callable[[nn.Module], object] | None = None,
) -> PreTrainedModel:
    """The architecture of config.json `config` with random weights on `device`.

    `quantization_config` is that of transformers. With `packed` its layers hold packed weights
    from the start (GPTQ), which are random words; without, each is quantized from random weights
    by the library (bitsandbytes). `convert` quantizes each linear layer in place as soon as it has
    its weights (torchao). Equal seeds give equal weights on the same kind of device.
    """
    torch.manual_seed(seed)
    with quiet():
        model: PreTrainedModel = meta_model(config)
        model.config.dtype = dtype
        quantizer = None
        if quantization_config is not None:
            quantizer = AutoHfQuantizer.from_config(quantization_config, pre_quantized=packed)
            quantizer.preprocess_model(model=model, dtype=dtype, device_map={"": device})
        _fill(model, _Memory(torch.device(device), dtype), convert)
        if quantizer is not None:
            model.hf_quantizer = quantizer
            quantizer.postprocess_model(model)
    return model.eval()


class _Memory:
    """Gives tensors of the meta device memory; a tied parameter stays one parameter."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self._dtype = dtype
        self._given: dict[int, nn.Parameter] = {}

    def give(self, module: nn.Module) -> None:
        """Replace the module's own meta tensors; their content is undefined."""
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type == "meta":
                setattr(module, name, self._parameter(parameter))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.device.type == "meta":
                module._buffers[name] = torch.empty_like(buffer, device=self.device)

    def _parameter(self, parameter: nn.Parameter) -> nn.Parameter:
        if id(parameter) not in self._given:
            data = torch.empty_like(parameter, device=self.device, dtype=self._dtype)
            self._given[id(parameter)] = nn.Parameter(data, requires_grad=False)
        return self._given[id(parameter)]


def _fill(
    model: PreTrainedModel, memory: _Memory, convert: Callable[[nn.Module], object] | None
) -> None:
    linears = {id(module) for name, module in linear_modules(model) if not is_router(name)}
    for module in model.modules():
        kind = type(module).__name__
        weight = getattr(module, "weight", None)
        if hasattr(module, "qweight"):
            memory.give(module)
            _fill_packed(module)
        elif kind in ("Linear8bitLt", "Linear4bit") and weight is not None:
            module.weight = _quantized(kind, weight, memory.device)
            memory.give(module)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        else:
            memory.give(module)
            model._init_weights(module)
            if convert is not None and id(module) in linears:
                convert(module)


def _quantized(kind: str, weight: Any, device: torch.device) -> Any:
    """A random weight of this shape, quantized by bitsandbytes as transformers does it."""
    import bitsandbytes.nn

    full = torch.empty(weight.shape, dtype=torch.float16, device=device).normal_(0, _DEVIATION)
    settings = dict(weight.__dict__)
    if kind == "Linear4bit":
        return bitsandbytes.nn.Params4bit(full, requires_grad=False, **settings).to(device)
    settings.pop("SCB", None)
    # LLM.int8() quantizes when a weight moves from the CPU to where it will be used.
    return bitsandbytes.nn.Int8Params(full.cpu(), requires_grad=False, **settings).to(device)


def _fill_packed(module: Any) -> None:
    """Random packed weights in GPTQ's layout, symmetric around zero."""
    module.qweight.random_(-(2**31), 2**31 - 1)
    module.qzeros.copy_(_constant_zeros(module.qzeros, module.bits))
    # Codes are uniform: their standard deviation is 2^bits / √12.
    module.scales.fill_(_DEVIATION * math.sqrt(12) / 2**module.bits)
    columns = torch.arange(module.in_features, dtype=torch.int32) // module.group_size
    if module.desc_act:
        columns = columns[torch.randperm(module.in_features)]
    module.g_idx.copy_(columns)
    if module.bias is not None:
        module.bias.zero_()


def _constant_zeros(zeros: Tensor, bits: int) -> Tensor:
    """Packed zero points of 2^(bits-1), which the format stores less one, as `zeros` is shaped."""
    code = 2 ** (bits - 1) - 1
    stream = sum(code << (bits * position) for position in range(32))
    words = [(stream >> (32 * index)) & 0xFFFFFFFF for index in range(bits)]
    signed = torch.tensor([word - 2**32 if word >= 2**31 else word for word in words])
    row = signed.to(torch.int32).repeat(math.ceil(zeros.shape[1] / bits))[: zeros.shape[1]]
    return row.expand_as(zeros)
