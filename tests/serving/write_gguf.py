"""Write a small Llama checkpoint as a GGUF file: write_gguf.py CHECKPOINT FILE [TYPE].

TYPE is that of the decoder's matrices: F32 (the default), F16, Q8_0, Q4_0. With another than F32
the embedding is F16. Runs where the package gguf is installed; torch is not needed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def tensors(file: Path) -> dict[str, np.ndarray]:
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    types = {"F16": np.float16, "F32": np.float32}
    found = {}
    for name, entry in json.loads(content[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        low, high = (8 + size + offset for offset in entry["data_offsets"])
        values = np.frombuffer(content[low:high], types[entry["dtype"]])
        found[name] = values.reshape(entry["shape"]).astype(np.float32)
    return found


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF rotates neighbouring numbers, transformers the halves of a head."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def write_tokens(writer: Any, tokenizer: dict[str, Any]) -> None:
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda pair: pair[1])
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(tokenizer["model"]["merges"]):
        ranks.setdefault("".join(merge), rank)
    words = [word for word, _ in vocabulary]
    kinds = [
        gguf.TokenType.UNKNOWN if word == "<unk>"
        else gguf.TokenType.CONTROL if word in ("<s>", "</s>")
        else gguf.TokenType.BYTE if word.startswith("<0x")
        else gguf.TokenType.NORMAL
        for word in words
    ]  # fmt: skip
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([-float(ranks.get(word, 1e6)) for word in words])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def add(writer: Any, name: str, weight: np.ndarray, kind: str) -> None:
    """Add a matrix in the type `kind`; vectors stay in float32."""
    if kind == "F32" or weight.ndim == 1:
        writer.add_tensor(name, weight)
        return
    wanted = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, gguf.quants.quantize(weight, wanted), raw_dtype=wanted)


def main(checkpoint: Path, out: Path, kind: str = "F32") -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    write_tokens(writer, json.loads((checkpoint / "tokenizer.json").read_text()))
    weights = tensors(checkpoint / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    add(writer, "token_embd.weight", embedding, "F32" if kind == "F32" else "F16")
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours in NAMES.items():
            weight = weights[f"model.layers.{layer}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):
                weight = interleaved(weight, heads if ours == "attn_q" else key_heads)
            add(writer, f"blk.{layer}.{ours}.weight", weight, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
