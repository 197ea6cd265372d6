"""How llama.cpp names and orders the tensors of an architecture, both ways.

Names come from the package `gguf`. Where llama.cpp rotates pairs of neighbours and Hugging Face
halves of a head, the rows of queries and keys stand in another order in the file: `permute` in
llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map
from numpy.typing import NDArray

from evalkit.errors import ModelError

# llama.cpp's architecture of each model type of transformers whose layout is known here.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
HEAD, EMBEDDING = "output.weight", "token_embd.weight"
# Factors of the rotation, which transformers computes from the configuration.
ROTATION = "rope_freqs.weight"
_REORDERED = ("attn_q", "attn_k")


def architecture_of(config: dict[str, Any]) -> str:
    """llama.cpp's architecture of the model of config.json `config`; raises ModelError."""
    model_type = str(config.get("model_type", ""))
    if model_type not in ARCHITECTURES:
        raise ModelError(
            f"model type {model_type!r} has no layout in GGUF that evalkit knows: known are "
            f"{', '.join(ARCHITECTURES)}; use int8, int4@gptq or int4@bitsandbytes"
        )
    return ARCHITECTURES[model_type]


def gguf_names(architecture: str, layers: int, names: Iterable[str]) -> dict[str, str]:
    """Map names of parameters, such as "model.norm.weight", to those in a file.

    Raises ModelError for one that has no counterpart.
    """
    kind = next(k for k, name in MODEL_ARCH_NAMES.items() if name == architecture)
    table = get_tensor_name_map(MODEL_ARCH(kind), layers)
    found = {}
    for name in names:
        module, _, suffix = name.rpartition(".")
        known = table.get_name(module)
        if known is None:
            raise ModelError(f"GGUF's architecture {architecture!r} has no tensor for {name}")
        found[name] = f"{known}.{suffix}"
    return found


def in_file_order(name: str, rows: NDArray[Any], config: dict[str, Any]) -> NDArray[Any]:
    """The tensor `name` of a file with its rows as llama.cpp wants them."""
    heads = _reordered_heads(name, config)
    if not heads:
        return rows
    split = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def in_model_order(name: str, rows: NDArray[Any], config: dict[str, Any]) -> NDArray[Any]:
    """The tensor `name` of a file with its rows as transformers wants them."""
    heads = _reordered_heads(name, config)
    if not heads:
        return rows
    split = rows.reshape(heads, len(rows) // heads // 2, 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def _reordered_heads(name: str, config: dict[str, Any]) -> int:
    """Heads whose rows stand in another order in a file; 0 where they stand in the same."""
    module = name.split(".")[-2]
    if architecture_of(config) != "llama" or module not in _REORDERED:
        return 0
    heads = config["num_attention_heads"]
    return int(heads if module == "attn_q" else config.get("num_key_value_heads") or heads)


def as_float32(data: bytes, type_name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The values that `data` stands for, exactly; raises ModelError by the name of the type."""
    from gguf import GGMLQuantizationType, dequantize, quant_shape_to_byte_shape

    kind = GGMLQuantizationType[type_name]
    rows = np.frombuffer(data, np.uint8).reshape(quant_shape_to_byte_shape(shape, kind))
    try:
        return dequantize(rows, kind)
    except NotImplementedError as error:
        raise ModelError(f"tensors of type {type_name} cannot be unpacked here") from error
