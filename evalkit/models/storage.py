"""Bytes of the weights exactly as they are held, and the number of parameters they stand for."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from evalkit.models.layer_format import LayerFormat, format_of
from evalkit.models.packed_parameters import Unpacking

Named = tuple[str, Tensor]


def weight_bytes(model: PreTrainedModel, formats: Sequence[LayerFormat]) -> dict[str, int]:
    """Bytes of weight storage by category; their sum is the size of the weights.

    Categories: packed (quantized weights), scales, zeros, group_index (which columns form a
    group), codebook, embedding, head, norm, bias, linear (unquantized matrices), other. `formats`
    say what quantized layers hold beside parameters and buffers. A storage that is used twice (a
    tied head) counts once. Call it before the first forward pass: some kernels repack their
    weights then.
    """
    sizes: defaultdict[str, int] = defaultdict(int)
    for _, category, size in _stored(model, formats):
        sizes[category] += size
    return dict(sorted(sizes.items()))


def quantized_weights(model: PreTrainedModel, formats: Sequence[LayerFormat]) -> tuple[int, int]:
    """Bytes of the quantized matrices, and how many weights they stand for; (0, 0) for none.

    The bytes are the packed weights with all that unpacking reads: scales, zeros, codebooks and
    indexes of groups. Biases are none of them. Both are counted as by `weight_bytes`.
    """
    stored = list(_stored(model, formats))
    packed = {id(module) for module, category, _ in stored if category == "packed"}
    inside: set[int] = set()
    elements = 0
    for module in model.modules():
        if id(module) in packed and (count := _elements(module)):
            inside |= {id(inner) for inner in module.modules()}
            elements += count
    size = sum(
        size for module, category, size in stored if id(module) in inside and category != "bias"
    )
    return size, elements


def parameter_count(model: PreTrainedModel) -> int:
    """Parameters of the unquantized architecture of `model`, tied ones once."""
    config = copy.deepcopy(model.config)
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    with torch.device("meta"):
        plain = type(model)(config)
    plain.tie_weights()
    return sum(parameter.numel() for parameter in plain.parameters())


def named_tensors(model: nn.Module, formats: Sequence[LayerFormat]) -> Iterator[Named]:
    """Every stored tensor with its full name, the parts of packed ones each."""
    names = {id(module): name for name, module in model.named_modules()}
    for module, _, name, tensor in _tensors(model, formats):
        yield f"{names[id(module)]}.{name}".removeprefix("."), tensor


def tensor_bytes(model: PreTrainedModel, formats: Sequence[LayerFormat]) -> dict[str, int]:
    """Bytes of every stored tensor by its full name, the parts of a packed one together.

    A storage that is used twice counts for the first, a tied embedding for the input. Packed
    parameters have the names that they have unpacked.
    """
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[str, int] = defaultdict(int)
    seen: set[tuple[object, ...]] = set()
    for module, _, name, tensor in _tensors(model, formats):
        key = _storage_key(tensor)
        if key not in seen:
            seen.add(key)
            full = f"{names[id(module)]}.{name}".replace("parametrizations.", "")
            found[full] += tensor.numel() * tensor.element_size()
    return dict(found)


def _stored(
    model: PreTrainedModel, formats: Sequence[LayerFormat]
) -> Iterator[tuple[nn.Module, str, int]]:
    """Module, category and bytes of every storage, each once."""
    seen: set[tuple[object, ...]] = set()
    for module, given, name, tensor in _tensors(model, formats):
        key = _storage_key(tensor)
        if key not in seen:
            seen.add(key)
            category = given or _category(model, module, name, tensor)
            yield module, category, tensor.numel() * tensor.element_size()


def _elements(module: Any) -> int:
    """Weights that a module with packed ones stands for; 0 for one that is no matrix."""
    if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], Unpacking):
        return module[0].shape.numel()
    if hasattr(module, "in_features"):
        return int(module.in_features * module.out_features)
    if hasattr(module, "num_embeddings"):
        return int(module.num_embeddings * module.embedding_dim)
    return 0


def _tensors(
    model: nn.Module, formats: Sequence[LayerFormat]
) -> Iterator[tuple[nn.Module, str, str, Tensor]]:
    """All tensors that hold weights, with the category that a format gives them, else "".

    Embeddings come first, so that a tied head counts as embedding.
    """
    modules = sorted(model.modules(), key=lambda module: not isinstance(module, nn.Embedding))
    for module in modules:
        buffers = (
            (name, buffer)
            for name, buffer in module.named_buffers(recurse=False)
            if name not in module._non_persistent_buffers_set
        )
        for name, tensor in [*module.named_parameters(recurse=False), *buffers]:
            for inner, part in _parts(name, tensor):
                yield module, "", inner, part
        one = format_of(module, formats)
        if one is not None and one.parts is not None:
            for category, name, tensor in one.parts(module):
                yield module, category, name, tensor


def _parts(name: str, tensor: Tensor) -> Iterator[Named]:
    """The plain tensors inside a tensor subclass, or the tensor itself."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield name, tensor
        return
    for inner in flatten()[0]:
        part = getattr(tensor, inner)
        if isinstance(part, Tensor):
            yield from _parts(inner, part)


def _storage_key(tensor: Tensor) -> tuple[object, ...]:
    if tensor.device.type == "meta":
        return ("meta", id(tensor))
    return (str(tensor.device), tensor.data_ptr(), tensor.numel() * tensor.element_size())


def _category(model: PreTrainedModel, module: nn.Module, name: str, tensor: Tensor) -> str:
    for category, words in _WORDS.items():
        if any(word in name for word in words):
            return category
    if tensor.element_size() == 1 or not tensor.is_floating_point():
        return "packed"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if module is model.get_output_embeddings():
        return "head" if name == "weight" else "bias"
    if name == "bias":
        return "bias"
    if "Norm" in type(module).__name__:
        return "norm"
    return "linear" if tensor.dim() > 1 else "other"


# Words in the names that quantizers give to parameters and buffers beside the weights.
_WORDS = {
    "zeros": ("zero",),
    "scales": ("scale",),
    "group_index": ("g_idx",),
    "codebook": ("code",),
}
