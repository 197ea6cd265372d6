"""Attention of Phi-3 Small: packed projections, RoPE, then dense or block-sparse attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.phi3.modeling_phi3 import eager_attention_forward

from evalkit.models.phi3_small import flex
from evalkit.models.phi3_small.configuration import Phi3SmallConfig
from evalkit.models.phi3_small.sparse import BlockPattern, chunked_attention, padded_attention


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
        self.pattern = None if config.is_dense(layer_idx) else BlockPattern.from_config(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: Any = None,
        past_key_values: Cache | None = None,
        past_length: int | None = None,
        token_mask: torch.Tensor | None = None,
        sparse_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map (batch, length, hidden_size) to the same shape; weights only from eager attention.

        Args:
            hidden_states: normalised input.
            position_embeddings: cos and sin, each (batch, length, head_dim).
            attention_mask: causal mask in the form the attention function wants.
            past_key_values: cache to extend.
            past_length: tokens in the cache before; None where all keys given are in use.
            token_mask: (batch, total length) true for real tokens; None without padding.
            sparse_mask: additive (batch or 1, heads, length, keys) mask for a sparse layer;
                None where it is plain causal or computes chunk by chunk.
            kwargs: passed on to the attention function.
        """
        query, key, value = self._project(hidden_states, position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        total = key.shape[2] if past_length is None else past_length + query.shape[2]
        weights = None
        if self.pattern is None or total <= self.pattern.local_span:
            attended, weights = self._dense(query, key, value, attention_mask, **kwargs)
        elif sparse_mask is not None:
            attended, weights = self._masked(query, key, value, sparse_mask)
        else:
            attended = self._blocks(query, key[:, :, :total], value[:, :, :total], token_mask)
        return self.dense(attended.reshape(hidden_states.shape)), weights

    @property
    def _dropout(self) -> float:
        return self.attention_dropout if self.training else 0.0

    def _dense(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        return attend(
            self, query, key, value, mask, dropout=self._dropout, scaling=self.scaling, **kwargs
        )

    def _masked(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        eager = self.config._attn_implementation == "eager"
        attend = eager_attention_forward if eager else sdpa_attention_forward
        return attend(self, query, key, value, mask, dropout=self._dropout, scaling=self.scaling)

    def _blocks(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        token_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        assert self.pattern is not None
        if token_mask is not None:
            return padded_attention(
                query,
                key,
                value,
                self.pattern,
                token_mask,
                scaling=self.scaling,
                dropout=self._dropout,
            )
        if flex.applies(query, key, self.pattern, dropout=self._dropout):
            return flex.flex_attention(query, key, value, self.pattern, scaling=self.scaling)
        return chunked_attention(
            query, key, value, self.pattern, scaling=self.scaling, dropout=self._dropout
        )

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
