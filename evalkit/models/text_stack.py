"""The text stack of a model: the part that reads and writes text, and its matrices.

What a quantizer packs are the matrices that tokens are multiplied with: linear layers and the
experts of a mixture. Embeddings, output head, routers, norms and convolutions are none, and towers
that read pictures or sound are not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from evalkit.models.packed_parameters import Unpacking
from evalkit.models.routers import is_router


def text_stack(model: PreTrainedModel) -> nn.Module:
    """The decoder of `model`, without the towers beside it; the whole base model where unknown."""
    found = model.get_decoder() if hasattr(model, "get_decoder") else None
    # In some models "decoder" names the output head.
    known = isinstance(found, PreTrainedModel) and found is not model
    stack: Any = found if known else model.base_model
    return cast(nn.Module, stack)


def text_modules(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Full name and module of everything in the text stack that may hold matrices, in order."""
    stack = text_stack(model)
    left_out = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    for _, module in stack.named_modules():
        if id(module) in left_out or _is_tower(module, stack):
            left_out.update(id(inner) for inner in module.modules())
    inside = {id(module) for module in stack.modules()} - left_out
    for name, module in model.named_modules():
        if id(module) in inside and not _is_other(name, module):
            yield name, module


def full_matrices(model: PreTrainedModel) -> dict[str, Tensor]:
    """Weights of the text stack that are matrices in floating point, by their full names."""
    return {
        f"{name}.{key}": weight
        for name, module in text_modules(model)
        for key, weight in module.named_parameters(recurse=False)
        if weight.dim() > 1 and "bias" not in key and is_full(weight)
    }


def fused_experts(model: PreTrainedModel) -> dict[str, Tensor]:
    """Matrices that hold several experts in one parameter, by their full names."""
    kinds = {name: type(module).__name__ for name, module in text_modules(model)}
    return {
        name: weight
        for name, weight in full_matrices(model).items()
        if "Expert" in kinds[name.rpartition(".")[0]]
    }


def packed_elements(model: PreTrainedModel) -> int:
    """Weights that the packed linear layers and experts of the text stack stand for."""
    total = 0
    for _, module in text_modules(model):
        total += module.shape.numel() if isinstance(module, Unpacking) else 0
        weight: Any = getattr(module, "weight", None)
        if hasattr(module, "in_features") and not (isinstance(weight, Tensor) and is_full(weight)):
            layer: Any = module
            total += layer.in_features * layer.out_features
    return total


def is_full(weight: Tensor) -> bool:
    """16 or 32 bit: not packed integers, not 8-bit floating point, not a quantized subclass."""
    plain = not hasattr(weight, "__tensor_flatten__")
    return plain and weight.is_floating_point() and weight.element_size() > 1


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(outputs, inputs) of a plain linear layer, transposed ones too; None for other modules."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    return None


def tower_note(model: PreTrainedModel) -> str:
    """What is held beside the text model and not run, in a line; "" where there is nothing."""
    stack = text_stack(model)
    inside = {id(module) for module in stack.modules()}
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        beside = isinstance(module, PreTrainedModel) and not any(
            inner is stack for inner in module.modules()
        )
        known = any(name.startswith(f"{other}.") for other in found)
        if beside and not known and (id(module) not in inside or _is_tower(module, stack)):
            found[name] = sum(p.numel() * p.element_size() for p in module.parameters())
    if not found:
        return ""
    held = ", ".join(f"{name} ({size / 1e6:,.1f} MB)" for name, size in found.items())
    return f"the text model is evaluated; {held} is loaded and not run"


def _is_tower(module: nn.Module, stack: nn.Module) -> bool:
    """Whether a model of another kind lies inside the stack: a picture's or a sound's reader."""
    if module is stack or not isinstance(module, PreTrainedModel):
        return False
    return type(module.config) is not type(getattr(stack, "config", None))


def _is_other(name: str, module: nn.Module) -> bool:
    kind = type(module).__name__
    convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return (
        convolution
        or is_router(name)
        or any(word in kind for word in ("Embedding", "Norm", "Router"))
    )
