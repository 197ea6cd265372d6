"""Bytes of the weights exactly as they are held, and the number of parameters they stand for."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Named = tuple[str, Tensor]


def weight_bytes(model: PreTrainedModel) -> dict[str, int]:
    """Bytes of weight storage by category; their sum is the size of the weights.

    Categories: packed (quantized weights), scales, zeros, group_index (of GPTQ), codebook,
    embedding, head, norm, bias, linear (unquantized matrices), other. A storage that is used
    twice (a tied head) counts once. Call it before the first forward pass: some kernels repack
    their weights then.
    """
    sizes: defaultdict[str, int] = defaultdict(int)
    seen: set[tuple[object, ...]] = set()
    for module, name, tensor in _tensors(model):
        key = _storage_key(tensor)
        if key not in seen:
            seen.add(key)
            sizes[_category(model, module, name, tensor)] += tensor.numel() * tensor.element_size()
    return dict(sorted(sizes.items()))


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


def named_tensors(model: nn.Module) -> Iterator[Named]:
    """Every stored tensor with its full name, the parts of packed ones each."""
    names = {id(module): name for name, module in model.named_modules()}
    for module, name, tensor in _tensors(model):
        yield f"{names[id(module)]}.{name}".removeprefix("."), tensor


def _tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """All tensors that hold weights, embeddings first so that a tied head counts as embedding."""
    modules = sorted(model.modules(), key=lambda module: not isinstance(module, nn.Embedding))
    for module in modules:
        buffers = (
            (name, buffer)
            for name, buffer in module.named_buffers(recurse=False)
            if name not in module._non_persistent_buffers_set
        )
        for name, tensor in [*module.named_parameters(recurse=False), *buffers]:
            for inner, part in _parts(name, tensor):
                yield module, inner, part
        for name, tensor in _bitsandbytes_state(module):
            yield module, name, tensor


def _parts(name: str, tensor: Tensor) -> Iterator[Named]:
    """The plain tensors inside a tensor subclass (torchao), or the tensor itself."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield name, tensor
        return
    for inner in flatten()[0]:
        part = getattr(tensor, inner)
        if isinstance(part, Tensor):
            yield from _parts(inner, part)


def _bitsandbytes_state(module: nn.Module) -> Iterator[Named]:
    """Scales of LLM.int8() and of 4-bit weights, which are attributes rather than buffers."""
    weight = getattr(module, "weight", None)
    scales = [getattr(weight, "SCB", None), getattr(getattr(module, "state", None), "SCB", None)]
    yield from (("SCB", scale) for scale in scales if isinstance(scale, Tensor))
    state = getattr(weight, "quant_state", None)
    # Double quantization holds the scales of the scales in a second state.
    for level in (state, getattr(state, "state2", None)):
        if level is not None:
            yield "absmax", level.absmax
            yield "code", level.code
    if isinstance(offset := getattr(state, "offset", None), Tensor):
        yield "offset", offset


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


# Names of quantization data in bitsandbytes, GPTQ, AWQ, compressed-tensors and torchao.
_WORDS = {
    "zeros": ("zero",),
    "scales": ("scale", "SCB", "absmax", "offset"),
    "group_index": ("g_idx",),
    "codebook": ("code",),
}
