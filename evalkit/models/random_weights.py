"""`--weights random`: the real architecture at full size, for speed and memory before a download.

The model is laid out on the meta device, its linear layers are replaced by the quantizer's own
modules, and then one module after another gets random weights directly on the device. A layer is
in 16 bit only while it is quantized itself; the whole model never is, unless that is the variant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import AutoHfQuantizer

from evalkit.models.layers import linear_modules
from evalkit.models.loading import quiet
from evalkit.models.routers import is_router
from evalkit.models.shapes import meta_model

NOTE = "random weights: speed and memory are real, quality is not measured"
# The usual standard deviation at initialisation, for packed weights as for others.
DEVIATION = 0.02


@torch.no_grad()
def random_model(
    config: dict[str, Any],
    *,
    dtype: torch.dtype,
    device: str,
    seed: int = 0,
    quantization_config: Any = None,
    packed: bool = False,
    fill: Callable[[nn.Module, Memory], bool] | None = None,
    convert: Callable[[nn.Module], object] | None = None,
) -> PreTrainedModel:
    """The architecture of config.json `config` with random weights on `device`.

    `quantization_config` is that of transformers, which puts the quantizer's own layers in place;
    with `packed` they are made for weights that are packed already. `fill` gives such a layer its
    random weights, and is False for other modules. `convert` quantizes each plain linear layer in
    place as soon as it has its weights. Equal seeds give equal weights on the same kind of device.
    """
    torch.manual_seed(seed)
    with quiet():
        model: PreTrainedModel = meta_model(config)
        model.config.dtype = dtype
        quantizer = None
        if quantization_config is not None:
            quantizer = AutoHfQuantizer.from_config(quantization_config, pre_quantized=packed)
            quantizer.preprocess_model(model=model, dtype=dtype, device_map={"": device})
        _fill(model, Memory(torch.device(device), dtype), fill, convert)
        if quantizer is not None:
            model.hf_quantizer = quantizer
            quantizer.postprocess_model(model)
    return model.eval()


class Memory:
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
            # Some kernels hold packed words as parameters.
            dtype = self._dtype if parameter.is_floating_point() else parameter.dtype
            data = torch.empty_like(parameter, device=self.device, dtype=dtype)
            self._given[id(parameter)] = nn.Parameter(data, requires_grad=False)
        return self._given[id(parameter)]


def _fill(
    model: PreTrainedModel,
    memory: Memory,
    fill: Callable[[nn.Module, Memory], bool] | None,
    convert: Callable[[nn.Module], object] | None,
) -> None:
    linears = {id(module) for name, module in linear_modules(model) if not is_router(name)}
    for module in model.modules():
        if fill is not None and fill(module, memory):
            continue
        memory.give(module)
        model._init_weights(module)
        if convert is not None and id(module) in linears:
            convert(module)
