"""What a small model of each causal architecture needs: sizes under every name, and exceptions.

A configuration takes those of COMMON that it has fields for, then what SPECIAL says of its type.
Sliding windows and the budgets of sparse attention are far below the length of a text.
"""

from __future__ import annotations

from typing import Any

VOCABULARY = 1024
POSITIONS = 16384
PAD, BOS, EOS = 0, 1, 2


def _each(names: str, value: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


COMMON: dict[str, Any] = {
    **{"vocab_size": VOCABULARY, "n_words": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY},
    **{"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS},
    **_each(
        "hidden_size n_embd d_model dim embed_dim embedding_size emb_dim "
        "word_embed_proj_dim hidden_size_per_layer_input",
        128,
    ),
    **_each(
        "num_hidden_layers n_layer n_layers num_layers num_blocks decoder_layers "
        "encoder_layers num_decoder_layers num_encoder_layers",
        2,
    ),
    **_each(
        "num_attention_heads n_head n_heads num_heads decoder_attention_heads "
        "encoder_attention_heads",
        4,
    ),
    **_each(
        "num_key_value_heads num_kv_heads",
        2,
    ),
    **_each(
        "head_dim d_kv v_head_dim index_head_dim",
        32,
    ),
    **_each(
        "intermediate_size n_inner ffn_dim d_ff decoder_ffn_dim encoder_ffn_dim "
        "ffn_hidden_size inner_dim",
        256,
    ),
    **_each(
        "max_position_embeddings n_positions n_ctx max_seq_len",
        POSITIONS,
    ),
    **_each(
        "num_experts num_local_experts n_routed_experts moe_num_experts",
        4,
    ),
    **_each(
        "num_experts_per_tok moe_topk top_k moe_k",
        2,
    ),
    **_each(
        "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size",
        128,
    ),
    **_each(
        "n_group topk_group first_k_dense_replace moe_num_shared_experts n_shared_experts "
        "mamba_n_groups n_groups",
        1,
    ),
    **_each(
        "sliding_window attention_window window_size local_attention_window",
        32,
    ),
    **{"q_lora_rank": 128, "kv_lora_rank": 128, "qk_rope_head_dim": 32, "qk_nope_head_dim": 32},
    **{"qk_head_dim": 64, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"linear_key_head_dim": 32, "linear_value_head_dim": 32, "laurel_rank": 32},
    **{"initializer_range": 0.08, "init_std": 0.08},
    **{"mamba_n_heads": 8, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_num_heads": 8},
    **{"mamba_head_dim": 32, "ssm_state_size": 16, "state_size": 16, "mamba_d_conv": 4},
    **{"mamba_expand": 2, "mamba_chunk_size": 64, "chunk_size": 64},
    **{"index_topk": 16, "index_n_heads": 2},
}  # fmt: skip

# How types without exceptions differ from one another: by a hash of their names.
PROFILES: tuple[dict[str, Any], ...] = (
    {},
    {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    {
        **_each(
            "hidden_size n_embd d_model",
            192,
        ),
        **_each(
            "num_attention_heads n_head num_heads",
            6,
        ),
        **{"intermediate_size": 384, "ffn_dim": 384, "tie_word_embeddings": False},
    },
    {"use_bias": True, "num_key_value_heads": 4, "pad_token_id": 3},
)

_LATENT = {"num_key_value_heads": 4, "head_dim": 32, "num_hidden_layers": 3}
_FOUR_LAYERS = {"num_hidden_layers": 4}
_ATTENTIONS = ("sliding_attention", "full_attention")
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def _layers(*kinds: str, times: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": times * len(kinds), "layer_types": list(kinds) * times, **more
    }  # fmt: skip


SPECIAL: dict[str, dict[str, Any]] = {
    **_each(
        "axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 dots3_note_text glm4_moe_lite "
        "glm_moe_dsa minicpm3 youtu",
        _LATENT,
    ),
    **_each(
        "cohere2 olmo3 gpt_oss qwen3_next qwen3_5_text qwen3_5_moe_text exaone4",
        _FOUR_LAYERS,
    ),
    "bailing_hybrid": {
        "num_hidden_layers": 4, "layer_group_size": 2, "num_key_value_heads": 4, "head_dim": 32,
        "num_local_experts": 16, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 2,
    },
    "bamba": {"num_hidden_layers": 4, "attn_layer_indices": [1, 3]},
    "codegen": {"rotary_dim": 16},
    "cohere_compass_text": _layers(*_ATTENTIONS, rope_parameters=dict.fromkeys(_ATTENTIONS, _ROPE)),
    "dbrx": {
        "d_model": 128,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {
            "hidden_size": 128, "ffn_hidden_size": 256, "moe_num_experts": 4, "moe_top_k": 2,
        },
    },
    "falcon_h1": {"mamba_d_ssm": 256},
    "gemma2": {"num_hidden_layers": 4, "query_pre_attn_scalar": 32},
    "gemma3_text": {
        "num_hidden_layers": 4, "query_pre_attn_scalar": 32,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention",
                        "sliding_attention"],
    },
    "gemma3n_text": _layers(
        *_ATTENTIONS, times=3, num_kv_shared_layers=2, activation_sparsity_pattern=[0.0] * 6,
        altup_num_inputs=2, intermediate_size=256,
    ),
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 16},
    "granitemoehybrid": _layers("mamba", "attention", shared_intermediate_size=256),
    "jamba": {
        "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4,
        "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False,
    },
    "kimi_linear": _layers(
        "linear_attention", "full_attention", num_key_value_heads=4, linear_head_dim=32,
        linear_num_heads=4, num_local_experts=16, num_experts_per_token=2, q_lora_rank=None,
    ),
    "lfm2": _layers("conv", "full_attention"),
    "lfm2_moe": _layers("conv", "full_attention", num_dense_layers=1),
    "lfm3": _layers("conv", "full_attention", "sliding_attention", "conv", times=1),
    "llama": {"num_hidden_layers": 3},
    "llama4_text": {
        "num_hidden_layers": 4, "intermediate_size_mlp": 256, "attention_chunk_size": 32,
    },
    "longcat_flash": {
        "num_key_value_heads": 4, "head_dim": 32, "num_layers": 2, "zero_expert_num": 2,
        "expert_ffn_hidden_size": 128, "moe_topk": 2, "n_routed_experts": 4,
    },
    "mamba2": {"num_heads": 8, "head_dim": 32, "n_groups": 1, "expand": 2},
    "mimo_v2_flash": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "mistral": {"num_hidden_layers": 3},
    "moshi": {"audio_vocab_size": VOCABULARY},
    "qwen2": {"use_sliding_window": False},
    "qwen4_exp_text": {
        "num_hidden_layers": 4, "hc_lowrank": 32, "ngram_vocab_size_base": 512,
        "split_ngram_parts": 1, "indexer_n_heads": 2, "indexer_kv_heads": 1,
        "indexer_head_dim": 32, "indexer_budget": 32, "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {
        "num_hidden_layers": 3, "lru_width": 128, "attention_window_size": 32,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "reformer": {
        "axial_pos_embds_dim": (64, 64), "axial_pos_shape": (32, 32),
        "attn_layers": ["local", "lsh"], "num_hidden_layers": 2, "max_position_embeddings": 1024,
    },
    "rwkv": {"attention_hidden_size": 128, "context_length": POSITIONS},
    "xlstm": {"num_heads": 4},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1,
        "num_key_value_heads": 4, "attention_head_dim": 64, "n_mamba_heads": 2,
    },
    "zamba2": {
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "num_key_value_heads": 4, "mamba_headdim": 32, "n_mamba_heads": 8, "mamba_ngroups": 1,
        "num_mem_blocks": 1, "adapter_rank": 32, "attention_head_dim": 64,
    },
    "zaya": {"num_experts_per_tok": 1, "num_hidden_layers": 3, "router_hidden_size": 64},
}  # fmt: skip
# Sparse indexers whose number of heads the configuration does not take.
INDEXERS = {
    name: {"index_n_heads": 16, "indexer_n_heads": 16}
    for name in ("axk2", "deepseek_v32", "dots3_note_text", "glm_moe_dsa", "hy_v4")
}
