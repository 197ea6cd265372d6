"""Models of every attention kind, and a tokenizer whose tokens are words: <pad> <s> </s> w3 w4 …"""

from __future__ import annotations

from typing import Any

import torch
from scoring_models import CONFIGS, VOCABULARY, build
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconMambaConfig,
    Gemma3TextConfig,
    GPT2Config,
    MistralConfig,
    Phi3Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from evalkit.inference.budget import Budget
from evalkit.inference.prefix import PrefixRunner
from evalkit.models.phi3_small import Phi3SmallConfig
from evalkit.scoring.head import open_forward

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GATED: dict[str, Any] = {"intermediate_size": 48, "num_key_value_heads": 2}
LONGROPE_LIMIT = 48
_FACTORS: dict[str, Any] = {
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": LONGROPE_LIMIT,
}
_PHI3_SMALL: dict[str, Any] = {
    **_SIZES,
    "num_key_value_heads": 2,
    "ff_intermediate_size": 48,
    "max_position_embeddings": 128,
    "mup_width_multiplier": 0.5,
    "blocksparse_block_size": 4,
    "blocksparse_num_local_blocks": 2,
    "blocksparse_vert_stride": 3,
}
# Attention kinds whose exactness depends on where padding and cached tokens lie.
KINDS = {
    "sliding window": MistralConfig(
        **_SIZES, **_GATED, max_position_embeddings=128, sliding_window=9
    ),
    "sliding and full": Gemma3TextConfig(
        **_SIZES,
        **_GATED,
        head_dim=8,
        max_position_embeddings=128,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "block-sparse": Phi3SmallConfig(**_PHI3_SMALL),
    "block-sparse longrope": Phi3SmallConfig(
        **_PHI3_SMALL, rope_scaling={"type": "su", **_FACTORS}
    ),
    "longrope": Phi3Config(
        **_SIZES,
        **_GATED,
        max_position_embeddings=128,
        original_max_position_embeddings=LONGROPE_LIMIT,
        rope_scaling={"type": "longrope", **_FACTORS},
    ),
    "learned positions": GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "alibi": BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3
    ),
    "recurrent": FalconMambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
        initializer_range=0.3,
    ),
}
ALL = [*CONFIGS, *KINDS]


def model_of(name: str) -> PreTrainedModel:
    if name in CONFIGS:
        return build(name)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(KINDS[name]).eval()


def runner_of(model: PreTrainedModel, budget: Budget | None = None, **options: Any) -> PrefixRunner:
    forward = open_forward(model, torch.arange(4, 20))
    return PrefixRunner(forward, budget or Budget(256, 2048), **options)


def tokenizer_of_words(**options: Any) -> PreTrainedTokenizerFast:
    words = {f"w{token}": token for token in range(3, VOCABULARY)}
    words |= {"<pad>": 0, "<s>": 1, "</s>": 2}
    inner = Tokenizer(models.WordLevel(words, unk_token="w3"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **options
    )
