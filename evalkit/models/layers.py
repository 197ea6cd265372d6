"""The linear layers of a loaded model: which there are, and which a quantizer left in 16 bit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

from evalkit.models.text_stack import full_matrices, is_full, packed_elements, text_stack

_LAYER_NUMBER = re.compile(r"\.\d+\.")


def linear_modules(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every linear layer, quantized or not, without the output head."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if module is not head and hasattr(module, "in_features"):
            yield name, module


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers that the text stack of `model` runs one after the other; none where unknown."""
    stacks = (one for one in text_stack(model).children() if isinstance(one, nn.ModuleList))
    return list(next(stacks, nn.ModuleList()))


@contextmanager
def every_layer(model: PreTrainedModel, passed: Callable[[int, int], None]) -> Iterator[None]:
    """Call `passed` with a decoder layer's number, and how many there are, when it has run."""
    layers = decoder_layers(model)

    def hook(index: int) -> Callable[..., None]:
        return lambda *_: passed(index, len(layers))

    handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def unquantized_layers(model: PreTrainedModel) -> list[str]:
    """Names of matrices of the text stack that a quantizer left in floating point.

    Embedding, output head and routers are kept by design; so are vectors and convolutions.
    """
    return list(full_matrices(model))


def packed_share(model: PreTrainedModel) -> float:
    """Part of the weights of the text stack's matrices that is packed."""
    packed = packed_elements(model)
    left = sum(weight.numel() for weight in full_matrices(model).values())
    return packed / (packed + left) if packed + left else 0.0


def kept_16bit(model: PreTrainedModel) -> tuple[str, ...]:
    """Modules whose own weights are floating point, layer numbers as `*`, sorted.

    A module with packed weights is left out, although its bias and scales are floating point.
    """
    names = set()
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        weight = own.get("weight")
        if weight is not None and is_full(weight):
            names.add(_LAYER_NUMBER.sub(".*.", name))
    return tuple(sorted(names))
