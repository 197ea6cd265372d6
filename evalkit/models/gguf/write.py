"""Writing a model as a GGUF file that llama.cpp loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    GGML_QUANT_SIZES,
    GGML_QUANT_VERSION,
    GGUFWriter,
    LlamaFileType,
    RopeScalingType,
    quant_shape_to_byte_shape,
    quantize,
)
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from evalkit.models.gguf.check import rotation_of
from evalkit.models.gguf.names import (
    EMBEDDING,
    HEAD,
    ROTATION,
    architecture_of,
    gguf_names,
    in_file_order,
)
from evalkit.models.gguf.tokenizer import add_tokenizer

_FLOATS = {torch.float32: Kind.F32, torch.float16: Kind.F16, torch.bfloat16: Kind.BF16}
_EIGHT_BIT = 8.0


def write_gguf(
    model: PreTrainedModel,
    source: Path,
    file: Path,
    kind: Kind | None,
    passed: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write `model`, whose config.json and tokenizer lie in the directory `source`, into `file`.

    Matrices are held in `kind`, and each in its own type where it is None. Vectors stay float32,
    an output head (or the embedding, where it is one) is not below Q8_0, and rows of no whole
    blocks are F16. `passed` is called with how many tensors are written, of how many.
    """
    config = model.config.to_dict()
    writer = GGUFWriter(file, architecture_of(config))
    _add_sizes(writer, config)
    writer.add_file_type(_file_type(kind or _FLOATS[model.dtype]))
    writer.add_quantization_version(GGML_QUANT_VERSION)
    add_tokenizer(writer, source, model.get_input_embeddings().weight.shape[0])
    tensors = list(_tensors(model, config))
    kinds = {
        name: _kind(name, values, kind, tied=HEAD not in dict(tensors)) for name, values in tensors
    }
    for name, values in tensors:
        size = int(np.prod(quant_shape_to_byte_shape(values.shape, kinds[name])))
        writer.add_tensor_info(name, values.shape, np.dtype(np.float32), size, kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, (name, values) in enumerate(tensors, 1):
        rows = in_file_order(name, values.detach().float().numpy(), config)
        writer.write_tensor_data(np.ascontiguousarray(_held(rows, kinds[name])))
        passed(done, len(tensors))
    writer.close()


def kind_of_preset(preset: str) -> Kind:
    """ggml's type of the preset "q4_0", "q8_0", …"""
    return Kind[preset.upper()]


def _held(rows: NDArray[np.float32], kind: Kind) -> NDArray[Any]:
    found: NDArray[Any] = quantize(rows, kind)
    return found


def _file_type(kind: Kind) -> LlamaFileType:
    return LlamaFileType["ALL_F32" if kind == Kind.F32 else f"MOSTLY_{kind.name}"]


def _kind(name: str, values: Tensor, kind: Kind | None, *, tied: bool) -> Kind:
    if values.dim() < 2:
        return Kind.F32
    if kind is None:
        return _FLOATS[values.dtype]
    if name == (EMBEDDING if tied else HEAD) and bits_of(kind) < _EIGHT_BIT:
        kind = Kind.Q8_0
    return Kind.F16 if values.shape[-1] % GGML_QUANT_SIZES[kind][0] else kind


def bits_of(kind: Kind) -> float:
    """Bits a weight, scales included."""
    block, size = GGML_QUANT_SIZES[kind]
    return 8 * size / block


def _tensors(model: PreTrainedModel, config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file, a tied head once."""
    parameters = dict(model.named_parameters())
    names = gguf_names(architecture_of(config), config["num_hidden_layers"], parameters)
    if (factors := _rotation_factors(config)) is not None:
        yield ROTATION, factors
    for name, values in parameters.items():
        yield names[name], values


def _rotation_factors(config: dict[str, Any]) -> Tensor | None:
    """By what Llama 3 divides the frequencies of its rotation; None for other models."""
    rotation = rotation_of(config)
    if rotation["rope_type"] != "llama3":
        return None
    size = _head_size(config)
    wave = 2 * torch.pi * rotation["rope_theta"] ** (torch.arange(0, size, 2) / size)
    original, factor = rotation["original_max_position_embeddings"], rotation["factor"]
    low, high = rotation["low_freq_factor"], rotation["high_freq_factor"]
    smooth = ((original / wave - low) / (high - low)).clamp(0, 1)
    divisors: Tensor = 1 / ((1 - smooth) / factor + smooth)
    return divisors


def _head_size(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _add_sizes(writer: GGUFWriter, config: dict[str, Any]) -> None:
    heads, size = config["num_attention_heads"], _head_size(config)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(size)
    rotation = rotation_of(config)
    writer.add_rope_freq_base(float(rotation["rope_theta"]))
    if rotation["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rotation["factor"]))
