"""A GGUF file as a model of its own: unpacked once into a Hugging Face checkpoint.

Every tensor keeps its exact values: F16 and BF16 stay what they are, all other types become
float32. The directory lies beside the hub's cache, under the hash of the file's content.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ModelError
from evalkit.models.gguf.check import check_type
from evalkit.models.gguf.header import GgufHeader, read_gguf_header
from evalkit.models.gguf.names import EMBEDDING, HEAD, ROTATION
from evalkit.models.gguf.tokenizer import PRE_TOKENIZERS
from evalkit.models.identity import FileHashes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# The class of transformers that runs llama.cpp's architectures; its model type is their name.
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_SHARD_BYTES = 2 * 10**9
_SPECIAL = {"bos": "bos", "eos": "eos", "padding": "pad"}
_FLOATS = {"F16": "float16", "BF16": "bfloat16"}


def as_checkpoint(file: Path) -> Path:
    """The directory of the model in `file`, unpacked now where it is not there yet.

    Raises ModelError where its architecture, types or tokenizer cannot be taken over.
    """
    from huggingface_hub.constants import HF_HOME

    root = Path(HF_HOME) / "evalkit" / "gguf"
    header = read_gguf_header(file)
    config = config_of(header)
    for type_name in {tensor.type for tensor in header.tensors.values()}:
        check_type(file, type_name)
    hashes = FileHashes(root / "hashes.json")
    out = root / hashes.sha256(file)
    hashes.save()
    if out.is_dir():
        return out
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as folder:
            made = Path(folder) / "made"
            made.mkdir()
            _write(header, config, made)
            made.rename(out)
    except OSError as error:
        if not out.is_dir():
            raise ModelError(f"{root} cannot be written: {error.strerror}") from error
    return out


def config_of(header: GgufHeader) -> dict[str, Any]:
    """config.json of the model of a file; raises ModelError for what it cannot say."""
    kind, path = header.architecture, header.path
    if kind not in _CLASSES:
        raise ModelError(
            f"{path} has the architecture {kind!r}: a model is made of {', '.join(_CLASSES)};"
            " give the original as --model, and this file as a variant"
        )
    if ROTATION in header.tensors or header.of_model("rope.scaling.type", "none") != "none":
        raise ModelError(
            f"{path} stretches its rotation by factors whose origin it does not name: give the"
            " original as --model, and this file as a variant"
        )
    heads, width = header.of_model("attention.head_count"), header.of_model("embedding_length")
    if not heads or not width or EMBEDDING not in header.tensors:
        raise ModelError(f"{path} names no sizes of a model: download or copy it again")
    special = {
        f"{name}_token_id": header.metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        for theirs, name in _SPECIAL.items()
    }
    biased = "blk.0.attn_q.bias" in header.tensors
    return {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "hidden_size": width,
        "num_hidden_layers": header.of_model("block_count"),
        "intermediate_size": header.of_model("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.of_model("attention.head_count_kv", heads),
        "head_dim": header.of_model("attention.key_length", width // heads),
        "hidden_act": "silu",
        "rms_norm_eps": header.of_model("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": header.of_model("context_length"),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": header.of_model("rope.freq_base", 10_000.0),
        },
        "attention_bias": biased and kind == "llama",
        "tie_word_embeddings": HEAD not in header.tensors,
        "vocab_size": header.tensors[EMBEDDING].shape[0],
        "dtype": _dtype(header),
        **special,
    }


def _dtype(header: GgufHeader) -> str:
    """The type of the embedding and of most others, where it is one of 16 bit."""
    return _FLOATS.get(header.tensors[EMBEDDING].type, "float32")


def _write(header: GgufHeader, config: dict[str, Any], out: Path) -> None:
    from safetensors.torch import save_file

    from evalkit.models.gguf.unpack import unpacked_tensors

    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _write_tokenizer(header, out)
    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(unpacked_tensors(header, config)), 1):
        name = f"model-{number:05}.safetensors"
        save_file(shard, out / name, {"format": "pt"})
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {}, "weight_map": places}
    (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _shards(tensors: Iterator[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    for name, values in tensors:
        shard[name] = values
        if sum(one.numel() * one.element_size() for one in shard.values()) >= _SHARD_BYTES:
            yield shard
            shard = {}
    if shard:
        yield shard


def _write_tokenizer(header: GgufHeader, out: Path) -> None:
    """What transformers reads of the file, with the rule that llama.cpp cuts words by."""
    from transformers import AutoTokenizer

    rule = str(header.metadata.get("tokenizer.ggml.pre", "default"))
    bytewise = header.metadata.get("tokenizer.ggml.model") == "llama"
    if not bytewise and rule not in PRE_TOKENIZERS:
        raise ModelError(
            f"{header.path} cuts texts into words by {rule!r}, and known are"
            f" {', '.join(PRE_TOKENIZERS)}: give the original as --model, this file as a variant"
        )
    tokenizer = AutoTokenizer.from_pretrained(header.path.parent, gguf_file=header.path.name)
    tokenizer.save_pretrained(out)
    if not bytewise:
        # transformers takes GPT-2's rule for all of them.
        file = out / "tokenizer.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content["pre_tokenizer"] = PRE_TOKENIZERS[rule]
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
