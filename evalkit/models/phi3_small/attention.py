"""Attention of Phi-3 Small: packed projections, RoPE, then dense or block-sparse attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import Cache
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.phi3.modeling_phi3 import eager_attention_forward

from evalkit.models.phi3_small.configuration import Phi3SmallConfig


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply RoPE in its half-rotation form to (..., head_dim); cos and sin broadcast."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


class Phi3SmallAttention(nn.Module):
    """Grouped-query attention; `query_key_value` is packed per key/value group."""

    def __init__(self, config: Phi3SmallConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_heads = config.num_key_value_heads
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.is_causal = True
        self.attention_dropout = config.attention_dropout_prob
        width = config.mup_attn_multiplier / self.head_dim
        self.scaling = width if config.mup_use_scaling else 1 / math.sqrt(self.head_dim)
        packed = self.num_key_value_heads * (self.num_key_value_groups + 2) * self.head_dim
        self.query_key_value = nn.Linear(config.hidden_size, packed)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.is_dense = config.is_dense(layer_idx)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        sparse_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map (batch, length, hidden_size) to the same shape, with attention weights if kept.

        Args:
            hidden_states: normalised input.
            position_embeddings: cos and sin, each (batch, length, head_dim).
            attention_mask: causal mask in the form the attention function wants.
            past_key_values: cache to extend.
            sparse_mask: additive (batch or 1, heads, length, keys) mask of a sparse layer.
            kwargs: passed on to the attention function.
        """
        query, key, value = self._project(hidden_states, position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        weights = None
        if self.is_dense or sparse_mask is None:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(
                self.config._attn_implementation, eager_attention_forward
            )
            dropout = self.attention_dropout if self.training else 0.0
            attended, weights = attend(
                self, query, key, value, attention_mask,
                dropout=dropout, scaling=self.scaling, **kwargs,
            )
        else:
            groups = self.num_key_value_groups
            attended = scaled_dot_product_attention(
                query, repeat_kv(key, groups), repeat_kv(value, groups), sparse_mask,
                scale=self.scaling,
            ).transpose(1, 2)
        return self.dense(attended.reshape(hidden_states.shape)), weights

    def _project(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return query, key and value as (batch, heads, length, head_dim), RoPE applied."""
        batch, length, _ = hidden_states.shape
        groups = self.num_key_value_groups
        packed = self.query_key_value(hidden_states)
        packed = packed.view(batch, length, self.num_key_value_heads, groups + 2, self.head_dim)
        cos, sin = position_embeddings
        rotated = rotate(packed[..., : groups + 1, :], cos[:, :, None, None], sin[:, :, None, None])
        query = rotated[..., :groups, :].flatten(2, 3)
        key, value = rotated[..., groups, :], packed[..., groups + 1, :]
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
