"""The linear layers of a loaded model: which there are, and which a quantizer left in 16 bit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor, nn
from transformers import PreTrainedModel

from evalkit.models.shapes import is_router

_LAYER_NUMBER = re.compile(r"\.\d+\.")


def linear_modules(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every linear layer, quantized or not, without the output head."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if module is not head and hasattr(module, "in_features"):
            yield name, module


def unquantized_layers(model: PreTrainedModel) -> list[str]:
    """Names of weights a quantizer left in floating point though a matrix product uses them.

    Embedding, output head and routers are kept by design; so are vectors (norms, biases).
    """
    kept = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    found = []
    for name, module in model.named_modules():
        if id(module) in kept or isinstance(module, nn.Embedding) or is_router(name):
            continue
        for key, weight in module.named_parameters(recurse=False):
            # A fused block of experts is one parameter of three dimensions.
            if weight.dim() > 1 and _is_full(weight):
                found.append(f"{name}.{key}")
    return found


def kept_16bit(model: PreTrainedModel) -> tuple[str, ...]:
    """Modules whose own weights are floating point, layer numbers as `*`, sorted.

    A module with packed weights is left out, although its bias and scales are floating point.
    """
    names = set()
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        weight = own.get("weight")
        if weight is not None and _is_full(weight):
            names.add(_LAYER_NUMBER.sub(".*.", name))
    return tuple(sorted(names))


def _is_full(weight: Tensor) -> bool:
    """16 or 32 bit: not packed integers, not 8-bit floating point, not a quantized subclass."""
    plain = not hasattr(weight, "__tensor_flatten__")
    return plain and weight.is_floating_point() and weight.element_size() > 1
