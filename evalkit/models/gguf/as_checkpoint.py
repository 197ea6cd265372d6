"""A GGUF file as a model of its own: unpacked once into a Hugging Face checkpoint.

Every tensor keeps its exact values: F16 and BF16 stay what they are, and all other types become
float32. The directory lies beside the hub's cache, under the hash of the file's content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

# transformers' model type and class of llama.cpp's architectures.
_MODELS = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
}
_SHARD_BYTES = 2 * 10**9
_SPECIAL = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
