"""Phi-3 Small: embedding, pre-norm blocks with dense or block-sparse attention, tied head."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from evalkit.errors import UsageError
from evalkit.models.phi3_small.attention import Phi3SmallAttention
from evalkit.models.phi3_small.configuration import (
    END_TOKEN_IDS,
    RELEASED_VOCAB_SIZE,
    Phi3SmallConfig,
)
from evalkit.models.phi3_small.flex import fallback_note
from evalkit.models.phi3_small.layout import SparseMasks, TokenLayout, describe
from evalkit.models.phi3_small.loading import check_weights
from evalkit.models.phi3_small.memory import recall, remember
from evalkit.models.phi3_small.rotary import Phi3SmallRotaryEmbedding
from evalkit.models.phi3_small.sparse import BlockPattern


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
    _no_split_modules: ClassVar[list[str]] = ["Phi3SmallDecoderLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"rotary_emb\.inv_freq"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs: ClassVar[dict[str, type[nn.Module]]] = {
        "hidden_states": Phi3SmallDecoderLayer,
        "attentions": Phi3SmallAttention,
    }

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint as transformers does, but refuse one whose weights do not fit.

        Raises:
            UsageError: a weight is missing or has another shape; transformers would warn and
                leave it random.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("ignore_mismatched_sizes", True)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        check_weights(str(args[0]) if args else "the state dict", info)
        return (model, info) if wants_info else model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # Buffers outside the checkpoint hold garbage after from_pretrained.
        if isinstance(module, (Phi3SmallRotaryEmbedding, Phi3SmallForCausalLM)):
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
        self.sparse_masks = SparseMasks(BlockPattern.from_config(config))
        self.gradient_checkpointing = False
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
        """Return the final hidden states, (batch, length, hidden_size), and the cache.

        See `Phi3SmallForCausalLM.forward` for the arguments.

        Raises:
            UsageError: the tokens exceed the context, or the masks do not cover them.
        """
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        if inputs is None or (input_ids is not None and inputs_embeds is not None):
            raise UsageError("forward needs input_ids or inputs_embeds: give exactly one of them")
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        wanted = inputs.shape[1]
        layout = describe(self.config, inputs, attention_mask, position_ids, past_key_values)
        if layout.crosses:
            input_ids = self._all_ids(past_key_values, input_ids, layout.past)
            layout = describe(self.config, input_ids, attention_mask, None, past_key_values)
        if self.config.rope_scaling and input_ids is not None:
            remember(past_key_values, input_ids, self.config.num_hidden_layers)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        hidden_states = self._decode(inputs_embeds, layout, past_key_values, use_cache, **kwargs)
        return BaseModelOutputWithPast(
            last_hidden_state=self.final_layernorm(hidden_states[:, -wanted:]),
            past_key_values=past_key_values if use_cache else None,
        )

    def _all_ids(
        self, cache: Cache, input_ids: torch.Tensor | None, past: int | torch.Tensor
    ) -> torch.Tensor:
        """Empty the cache and return all ids it stood for, with the new ones behind them."""
        if input_ids is None:
            raise UsageError(
                "inputs_embeds cross the original context: the cache must be computed anew from "
                "ids; give input_ids"
            )
        return torch.cat((recall(cache, self.config.num_hidden_layers, int(past)), input_ids), 1)

    def _decode(
        self,
        inputs_embeds: torch.Tensor,
        layout: TokenLayout,
        cache: Cache | None,
        use_cache: bool | None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Run embeddings through all layers: (batch, length, hidden_size)."""
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=layout.attention_mask,
            past_key_values=cache,
        )
        scaled = inputs_embeds * self.config.mup_embedding_multiplier
        hidden_states = self.embedding_dropout(scaled)
        eager = self.config._attn_implementation == "eager"
        sparse_mask = self.sparse_masks.build(layout, hidden_states, always=eager)
        shared = {
            "attention_mask": causal_mask,
            "position_ids": layout.positions,
            "position_embeddings": self.rotary_emb(
                layout.positions, layout.long, hidden_states.dtype
            ),
            "past_key_values": cache,
            "use_cache": use_cache,
            "past_length": None if isinstance(layout.past, torch.Tensor) else layout.past,
            "token_mask": layout.token_mask,
            "sparse_mask": sparse_mask,
            **kwargs,
        }
        for layer in self.layers:
            hidden_states = layer(hidden_states, **shared)
        return hidden_states


class Phi3SmallForCausalLM(Phi3SmallPreTrainedModel, GenerationMixin):
    """The decoder with its head, tied to the token embedding."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    dummy_ids: torch.Tensor

    def __init__(self, config: Phi3SmallConfig) -> None:
        super().__init__(config)
        self.model = Phi3SmallModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        empty = torch.zeros(len(config.dummy_token_indices or ()), dtype=torch.long)
        self.register_buffer("dummy_ids", empty, persistent=False)
        self.reset_buffers()
        if config.vocab_size == RELEASED_VOCAB_SIZE:
            # Of the two ids, config.json names one; a generation_config.json has precedence.
            self.generation_config.eos_token_id = list(END_TOKEN_IDS)
            self.generation_config.pad_token_id = END_TOKEN_IDS[0]
        self.post_init()

    @property
    def kernel_notes(self) -> tuple[str, ...]:
        """What is to be noted of the kernels that run beside those of the linear layers."""
        note = fallback_note(self.device, BlockPattern.from_config(self.config))
        return (note,) if note else ()

    @torch.no_grad()
    def reset_buffers(self) -> None:
        """Fill the ids that are never predicted again; they are not in checkpoints."""
        ids = self.config.dummy_token_indices or ()
        self.dummy_ids = torch.tensor(ids, dtype=torch.long, device=self.dummy_ids.device)

    @staticmethod
    def create_masks_for_generate(attention_mask: Any, **_: Any) -> Any:
        """Keep the padding mask as it is: the model needs it to count positions and blocks."""
        return attention_mask

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
            dummies = self.dummy_ids.to(logits.device)
            logits = logits.index_fill_(-1, dummies, torch.finfo(torch.float32).min)
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
