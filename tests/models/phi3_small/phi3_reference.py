"""Phi-3 Small in float64, slow and literal, written from the published definition alone.

It shares no code with the package under test: every query of every head decides key by key what
it sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Weights = Mapping[str, np.ndarray]


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * weight + bias


def sees(config: Mapping[str, Any], layer: int, head: int, q: int, k: int) -> bool:
    if k > q:
        return False
    if (layer + 1) % config["dense_attention_every_n_layers"] == 0:
        return True
    block, stride = config["blocksparse_block_size"], config["blocksparse_vert_stride"]
    step = max(1, int(stride / config["num_attention_heads"]))
    h = 0 if config["blocksparse_homo_head_pattern"] else head
    local = q // block - k // block < config["blocksparse_num_local_blocks"]
    return local or (k // block + h * step + 1) % stride == 0


def rope(x: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """Rotate (length, head_dim)."""
    length, width = x.shape
    frequency = config["rope_embedding_base"] ** (-np.arange(0, width, 2) / width)
    magnitude, scale = 1.0, config["rope_position_scale"]
    scaling = config.get("rope_scaling")
    if scaling:
        original = scaling["original_max_position_embeddings"]
        regime = "long" if length > original else "short"
        frequency = frequency / np.array(scaling[f"{regime}_factor"])
        magnitude, scale = scaling[f"{regime}_mscale"], 1.0
        if magnitude <= 0:
            ratio = math.log(config["max_position_embeddings"] / original)
            magnitude = math.sqrt(1 + ratio / math.log(original)) if regime == "long" else 1.0
    angle = np.outer(np.arange(length) * scale, frequency)
    angle = np.concatenate((angle, angle), -1)
    half = np.concatenate((-x[:, width // 2 :], x[:, : width // 2]), -1)
    return (x * np.cos(angle) + half * np.sin(angle)) * magnitude


def attention(x: np.ndarray, w: Weights, config: Mapping[str, Any], layer: int) -> np.ndarray:
    length, heads = len(x), config["num_attention_heads"]
    groups, width = config["num_key_value_heads"], config["hidden_size"] // heads
    per_group = heads // groups
    packed = x @ w["self_attn.query_key_value.weight"].T + w["self_attn.query_key_value.bias"]
    packed = packed.reshape(length, groups, per_group + 2, width)
    factor = config["mup_attn_multiplier"] / width
    scale = factor if config["mup_use_scaling"] else 1 / math.sqrt(width)
    outputs = []
    for head in range(heads):
        group, slot = divmod(head, per_group)
        query = rope(packed[:, group, slot], config)
        key = rope(packed[:, group, per_group], config)
        scores = query @ key.T * scale
        for q in range(length):
            for k in range(length):
                if not sees(config, layer, head, q, k):
                    scores[q, k] = -math.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        outputs.append(weights @ packed[:, group, per_group + 1])
    joined = np.concatenate(outputs, -1)
    return joined @ w["self_attn.dense.weight"].T + w["self_attn.dense.bias"]


def feed_forward(x: np.ndarray, w: Weights, config: Mapping[str, Any]) -> np.ndarray:
    u = x @ w["mlp.up_proj.weight"].T + w["mlp.up_proj.bias"]
    limit = config["gegelu_limit"]
    a, b = np.minimum(u[:, 0::2], limit), np.clip(u[:, 1::2], -limit, limit)
    hidden = a / (1 + np.exp(-1.702 * a)) * (b + 1)
    return hidden @ w["mlp.down_proj.weight"].T + w["mlp.down_proj.bias"]


def logits(ids: Sequence[int], weights: Weights, config: Mapping[str, Any]) -> np.ndarray:
    """Logits (length, vocab_size) of one unpadded row in one forward pass."""
    epsilon = config["layer_norm_epsilon"]
    embedding = weights["model.embed_tokens.weight"]
    x = embedding[np.asarray(ids)] * config["mup_embedding_multiplier"]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        w = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        norm = layer_norm(x, w["input_layernorm.weight"], w["input_layernorm.bias"], epsilon)
        x = x + attention(norm, w, config, layer)
        name = "post_attention_layernorm"
        norm = layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], epsilon)
        x = x + feed_forward(norm, w, config)
    name = "model.final_layernorm"
    x = layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)
    return x @ embedding.T / config["mup_width_multiplier"]
