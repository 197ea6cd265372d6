"""What really runs in a loaded model: kernels of the linear layers, and what stays in 16 bit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import nn
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
            if weight.is_floating_point() and weight.dim() > 1 and weight.element_size() > 1:
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
        if weight is not None and weight.is_floating_point() and weight.element_size() > 1:
            names.add(_LAYER_NUMBER.sub(".*.", name))
    return tuple(sorted(names))


def kernel_names(model: PreTrainedModel, describe: Callable[[nn.Module], str]) -> str:
    """`describe(module)` of all linear layers, the most frequent first, routers left out."""
    counts = Counter(
        describe(module) for name, module in linear_modules(model) if not is_router(name)
    )
    return ", ".join(name for name, _ in counts.most_common())


def dtype_name(dtype: torch.dtype) -> str:
    """ "float16" for torch.float16."""
    return str(dtype).removeprefix("torch.")


def describe_plain(module: nn.Module) -> str:
    """Class and dtype of a plain linear layer, such as "Linear (float16)"."""
    return f"{type(module).__name__} ({dtype_name(module.weight.dtype)})"  # type: ignore[arg-type]
