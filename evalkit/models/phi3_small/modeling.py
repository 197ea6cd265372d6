"""Phi-3 Small: embedding, pre-norm blocks with dense or block-sparse attention, tied head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from evalkit.models.phi3_small.attention import Phi3SmallAttention
from evalkit.models.phi3_small.configuration import Phi3SmallConfig
from evalkit.models.phi3_small.rotary import Phi3SmallRotaryEmbedding
from evalkit.models.phi3_small.sparse import BlockPattern, additive, visible


class Phi3SmallMLP(nn.Module):
    """Feed-forward block with GEGELU: up_proj interleaves the gate (even) and the value (odd)."""

    def __init__(self, config: Phi3SmallConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, 2 * config.ff_intermediate_size)
        self.down_proj = nn.Linear(config.ff_intermediate_size, config.hidden_size)
        self.limit = config.gegelu_limit
        self.dropout = nn.Dropout(config.ffn_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map (batch, length, hidden_size) to the same shape."""
        up = self.up_proj(hidden_states)
        gate = up[..., 0::2].clamp(max=self.limit)
        value = up[..., 1::2].clamp(min=-self.limit, max=self.limit)
        hidden = gate * torch.sigmoid(1.702 * gate) * (value + 1)
        return self.dropout(self.down_proj(hidden))


class Phi3SmallDecoderLayer(GradientCheckpointingLayer):
    """One pre-norm block: attention, then MLP, each added to the residual stream."""

    def __init__(self, config: Phi3SmallConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = Phi3SmallAttention(config, layer_idx)
        self.mlp = Phi3SmallMLP(config)
        epsilon = config.layer_norm_epsilon
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=epsilon)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=epsilon)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Map (batch, length, hidden_size) to the same shape; `kwargs` go to the attention."""
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class Phi3SmallPreTrainedModel(PreTrainedModel):
    """What all Phi-3 Small models share: initialisation and what they can do."""

    config_class = Phi3SmallConfig
    config: Phi3SmallConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Phi3SmallDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": Phi3SmallDecoderLayer,
        "attentions": Phi3SmallAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # Buffers outside the checkpoint hold garbage after from_pretrained.
        if isinstance(module, Phi3SmallRotaryEmbedding):
            module.reset_buffers()


class Phi3SmallModel(Phi3SmallPreTrainedModel):
    """The decoder without its head."""

    def __init__(self, config: Phi3SmallConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout_prob)
        self.layers = nn.ModuleList(
            Phi3SmallDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.rotary_emb = Phi3SmallRotaryEmbedding(config)
        self.pattern = BlockPattern.from_config(config)
        self.gradient_checkpointing = False
        self._cached_mask: tuple[Any, torch.Tensor] | None = None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Return the final hidden states: (batch, length, hidden_size)."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        length = inputs_embeds.shape[1]
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=inputs_embeds.device)[None]
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
        )
        long = past + length > self.config.original_max_position_embeddings
        hidden_states = self.embedding_dropout(
            inputs_embeds * self.config.mup_embedding_multiplier
        )
        position_embeddings = self.rotary_emb(position_ids, long, hidden_states.dtype)
        sparse_mask = self._sparse_mask(hidden_states, past)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=causal_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=position_embeddings,
                sparse_mask=sparse_mask,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.final_layernorm(hidden_states),
            past_key_values=past_key_values if use_cache else None,
        )

    def _sparse_mask(self, hidden_states: torch.Tensor, past: int) -> torch.Tensor | None:
        length, device, dtype = hidden_states.shape[1], hidden_states.device, hidden_states.dtype
        if past + length <= self.pattern.local_span:
            return None
        key = (length, past, device, dtype)
        if self._cached_mask is None or self._cached_mask[0] != key:
            keys = torch.arange(past + length, device=device)[None]
            mask = additive(visible(self.pattern, keys[:, past:], keys), dtype)
            self._cached_mask = (key, mask)
        return self._cached_mask[1]


class Phi3SmallForCausalLM(Phi3SmallPreTrainedModel, GenerationMixin):
    """The decoder with its head, tied to the token embedding."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: Phi3SmallConfig) -> None:
        super().__init__(config)
        self.model = Phi3SmallModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return float32 logits: (batch, kept length, vocab_size).

        Args:
            input_ids: (batch, length) token ids.
            attention_mask: (batch, cached + length), 1 for real tokens and 0 for padding.
            position_ids: (batch, length); by default counted from the first real token.
            past_key_values: keys and values of earlier tokens.
            inputs_embeds: (batch, length, hidden_size) instead of `input_ids`.
            labels: (batch, length) ids to predict, shifted inside; adds `loss`.
            use_cache: whether to return `past_key_values`.
            logits_to_keep: how many last positions get logits (0 for all), or their indices.
            kwargs: passed on to the attention function.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_states[:, kept]).float() / self.config.mup_width_multiplier
        if self.config.dummy_token_indices:
            dummies = torch.tensor(self.config.dummy_token_indices, device=logits.device)
            logits = logits.index_fill(-1, dummies, torch.finfo(torch.float32).min)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
