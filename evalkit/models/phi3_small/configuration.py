"""Configuration of Phi-3 Small (`model_type: phi3small`), with the names Microsoft's files use."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from evalkit.errors import UsageError

RELEASED_VOCAB_SIZE = 100_352
"""Vocabulary size of the released checkpoints; only it has the dummy ids below."""

END_TOKEN_IDS = (100257, 100266)
"""Ids of the released vocabulary that end an answer: <|endoftext|> and <|end|>."""

DUMMY_TOKEN_IDS = (100256, 100258, 100259, 100260, 100264, 100265, *range(100267, 100352))
"""The 91 ids of the released vocabulary that stand for no text and are never predicted."""


class Phi3SmallConfig(PreTrainedConfig):
    """Shape and constants of a Phi-3 Small model; the defaults are the released 8k model.

    Unknown keys of a `config.json` are kept as attributes and otherwise ignored.

    Raises:
        UsageError: the head counts, block geometry or longrope factors do not fit each other.
    """

    model_type: ClassVar[str] = "phi3small"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {"intermediate_size": "ff_intermediate_size"}

    vocab_size: int = RELEASED_VOCAB_SIZE
    hidden_size: int = 4096
    ff_intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    hidden_act: str = "gegelu"
    gegelu_limit: float = 20.0
    layer_norm_epsilon: float = 1e-5
    max_position_embeddings: int = 8192
    rope_embedding_base: float = 1_000_000.0
    rope_position_scale: float = 1.0
    rope_scaling: dict[str, Any] | None = None
    mup_use_scaling: bool = True
    mup_width_multiplier: float = 8.0
    mup_embedding_multiplier: float = 10.0
    mup_attn_multiplier: float = 1.0
    blocksparse_homo_head_pattern: bool = False
    blocksparse_block_size: int = 64
    blocksparse_num_local_blocks: int = 16
    blocksparse_vert_stride: int = 8
    dense_attention_every_n_layers: int = 2
    embedding_dropout_prob: float = 0.1
    attention_dropout_prob: float = 0.0
    ffn_dropout_prob: float = 0.1
    dummy_token_indices: list[int] | None = None
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 100257
    eos_token_id: int | list[int] | None = 100257
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.dummy_token_indices is None:
            released = self.vocab_size == RELEASED_VOCAB_SIZE
            self.dummy_token_indices = list(DUMMY_TOKEN_IDS) if released else []
        declared = kwargs.pop("head_dim", None)
        super().__post_init__(**kwargs)
        self._check_vocabulary()
        self._check_heads(declared)
        self._check_sparsity()
        self._check_positions()

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def short_context(self) -> int:
        """Longest total length, in tokens, that keeps the short RoPE factors."""
        if self.rope_scaling is None:
            return self.max_position_embeddings
        name = "original_max_position_embeddings"
        return int(self.rope_scaling.get(name) or getattr(self, name))

    def is_dense(self, layer_idx: int) -> bool:
        """Whether layer `layer_idx` (from 0) attends to every earlier token."""
        return (layer_idx + 1) % self.dense_attention_every_n_layers == 0

    def rope_magnitude(self, *, long: bool) -> float:
        """Factor on cos and sin in the short or the long regime of longrope, 1.0 without it."""
        if self.rope_scaling is None:
            return 1.0
        scale = float(self.rope_scaling.get("long_mscale" if long else "short_mscale", -1.0))
        if scale > 0:
            return scale
        if not long:
            return 1.0
        original = self.short_context
        return math.sqrt(1 + math.log(self.max_position_embeddings / original) / math.log(original))

    def _check_vocabulary(self) -> None:
        if self.hidden_act != "gegelu":
            raise UsageError(
                f"hidden_act {self.hidden_act!r}: Phi-3 Small has only 'gegelu'; "
                "check that config.json belongs to this model_type"
            )
        highest = max(self.dummy_token_indices or (0,))
        if highest >= self.vocab_size:
            raise UsageError(
                f"dummy_token_indices {highest}: ids go up to {self.vocab_size - 1}; "
                "correct config.json"
            )

    def _check_heads(self, declared: int | None) -> None:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads < 1 or self.hidden_size % heads or (self.hidden_size // heads) % 2:
            raise UsageError(
                f"num_attention_heads {heads}: must divide hidden_size {self.hidden_size} "
                "into heads of even width; correct config.json"
            )
        if groups < 1 or heads % groups:
            raise UsageError(
                f"num_key_value_heads {groups}: must divide num_attention_heads {heads}; "
                "correct config.json"
            )
        if declared not in (None, self.head_dim):
            raise UsageError(
                f"head_dim {declared}: hidden_size {self.hidden_size} over num_attention_heads "
                f"{heads} is {self.head_dim}; correct config.json"
            )

    def _check_sparsity(self) -> None:
        for name in (
            "blocksparse_block_size",
            "blocksparse_num_local_blocks",
            "blocksparse_vert_stride",
            "dense_attention_every_n_layers",
        ):
            value = getattr(self, name)
            if value < 1:
                raise UsageError(f"{name} {value}: must be at least 1; correct config.json")
        block = self.blocksparse_block_size
        if block > self.max_position_embeddings or self.max_position_embeddings % block:
            raise UsageError(
                f"blocksparse_block_size {block}: must divide max_position_embeddings "
                f"{self.max_position_embeddings}; correct config.json"
            )

    def _check_positions(self) -> None:
        if self.rope_scaling is None:
            return
        kind = self.rope_scaling.get("type", self.rope_scaling.get("rope_type"))
        if kind not in ("su", "longrope"):
            raise UsageError(
                f"rope_scaling type {kind!r}: allowed are 'su' and 'longrope'; correct config.json"
            )
        name = "original_max_position_embeddings"
        if not self.rope_scaling.get(name) and not getattr(self, name, None):
            raise UsageError(
                f"rope_scaling without {name}: the length up to which the short factors apply is "
                "needed; correct config.json"
            )
        for name in ("short_factor", "long_factor"):
            count = len(self.rope_scaling.get(name) or [])
            if count != self.head_dim // 2:
                raise UsageError(
                    f"rope_scaling {name} has {count} numbers: half the head width, "
                    f"{self.head_dim // 2}, are needed; correct config.json"
                )
