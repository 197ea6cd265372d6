"""Whether a GGUF file holds the architecture, sizes and vocabulary of a checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from evalkit.errors import ModelError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.gguf.header import GgufHeader
from evalkit.models.gguf.names import EMBEDDING, ROTATION, architecture_of, as_float32

# Hyperparameters of a file behind its architecture's name, and what config.json calls them.
_SIZES = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_CLOSE = 1e-5
_BASE = 10_000.0


def check_file(header: GgufHeader, checkpoint: Checkpoint) -> None:
    """Raise ModelError with the first field in which the file is no form of `checkpoint`.

    Also where a tensor's type cannot be unpacked.
    """
    config = checkpoint.text_config
    theirs, ours = header.architecture, architecture_of(config)
    if theirs != ours:
        raise _differs(header, "general.architecture", theirs, checkpoint, ours)
    for key, name in _SIZES.items():
        own, other = header.of_model(key), config.get(name)
        if own is not None and other is not None and not _same(own, other):
            raise _differs(header, f"{theirs}.{key}", own, checkpoint, f"{name} {other}")
    _check_head_size(header, checkpoint)
    _check_rotation(header, checkpoint)
    _check_vocabulary(header, checkpoint)
    for type_name in {tensor.type for tensor in header.tensors.values()}:
        check_type(header.path, type_name)


def check_type(path: Path, type_name: str) -> None:
    """Raise ModelError where the package gguf cannot unpack tensors of a type."""
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    try:
        as_float32(bytes(size), type_name, (block,))
    except ModelError as error:
        raise ModelError(f"{path}: {error}; give a file in other types") from error


def _differs(
    header: GgufHeader, field: str, own: Any, checkpoint: Checkpoint, other: Any
) -> ModelError:
    return ModelError(
        f"{header.path} has {field} {own} and {checkpoint.name} has {other}: give a file that was"
        " made from this model"
    )


def _same(own: Any, other: Any) -> bool:
    if isinstance(own, list):
        return all(_same(one, other) for one in own)
    return isinstance(own, int | float) and math.isclose(own, other, rel_tol=_CLOSE)


def _check_head_size(header: GgufHeader, checkpoint: Checkpoint) -> None:
    config = checkpoint.text_config
    usual = int(config["hidden_size"]) // int(config["num_attention_heads"])
    own = header.of_model("attention.key_length", usual)
    wanted = config.get("head_dim") or usual
    if own != wanted:
        field = f"{header.architecture}.attention.key_length"
        raise _differs(header, field, own, checkpoint, f"head_dim {wanted}")


def rotation_of(config: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the rotation: transformers 5 keeps them together, older ones apart."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found.setdefault("rope_theta", config.get("rope_theta", _BASE))
    found["rope_type"] = found.get("rope_type") or found.get("type") or "default"
    return found


def _check_rotation(header: GgufHeader, checkpoint: Checkpoint) -> None:
    wanted = rotation_of(checkpoint.text_config)
    base = header.of_model("rope.freq_base", _BASE)
    if not _same(base, wanted["rope_theta"]):
        field = f"{header.architecture}.rope.freq_base"
        raise _differs(header, field, base, checkpoint, f"rope_theta {wanted['rope_theta']}")
    kind = "llama3" if ROTATION in header.tensors else header.of_model("rope.scaling.type", "none")
    kind = "default" if kind == "none" else kind
    if kind != wanted["rope_type"]:
        field = f"{header.architecture}.rope.scaling.type"
        raise _differs(header, field, kind, checkpoint, f"rope_type {wanted['rope_type']}")


def _check_vocabulary(header: GgufHeader, checkpoint: Checkpoint) -> None:
    embedding, rows = header.tensors.get(EMBEDDING), checkpoint.embedding_rows
    if embedding is None:
        raise ModelError(f"{header.path} holds no {EMBEDDING}: give a file of a whole model")
    if rows is not None and embedding.shape[0] != rows:
        raise _differs(header, "a vocabulary of", embedding.shape[0], checkpoint, rows)
    words = vocabulary_of(checkpoint.path)
    for index, word in enumerate(header.tokens):
        other = words.get(index, word)
        # llama.cpp's converter writes the spaces of some added words as they are.
        if word.replace("▁", " ") != other.replace("▁", " "):
            raise _differs(header, f"token {index}", repr(word), checkpoint, repr(other))


def vocabulary_of(path: Path) -> dict[int, str]:
    """The words of tokenizer.json in the directory `path` by their ids; none where it has none."""
    try:
        content = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if isinstance(vocabulary, dict):
        words = {index: word for word, index in vocabulary.items()}
    else:
        words = {index: entry[0] for index, entry in enumerate(vocabulary)}
    return words | {added["id"]: added["content"] for added in content.get("added_tokens") or ()}
