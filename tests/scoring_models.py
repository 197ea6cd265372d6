"""Small models of several architectures, windows, and the oracle in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedModel,
)

from evalkit.models.phi3_small import Phi3SmallConfig
from evalkit.texts.windows import Windows

VOCABULARY = 600
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
_GATED = {"intermediate_size": 48, "num_key_value_heads": 2}

CONFIGS = {
    "llama-tied": LlamaConfig(**_SIZES, **_GATED, tie_word_embeddings=True),
    "gemma-2": Gemma2Config(
        **_SIZES, **_GATED, head_dim=8, final_logit_softcapping=4.0, sliding_window=16
    ),
    "phi-3": Phi3Config(**_SIZES, **_GATED),
    "phi-3-small": Phi3SmallConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        ff_intermediate_size=48,
        max_position_embeddings=128,
        mup_width_multiplier=0.5,
        dummy_token_indices=[3, 590, 591],
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    ),
    # A head with a bias, a head of another name, a decoder one level deeper, router outputs.
    "phi-1": PhiConfig(**_SIZES, **_GATED),
    "gpt-neox": GPTNeoXConfig(**_SIZES, intermediate_size=48),
    "opt": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
        init_std=0.3,
        dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "mixtral": MixtralConfig(**_SIZES, **_GATED, num_local_experts=2),
}


def build(name: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:
        torch.nn.init.normal_(bias)
    return model


def disturbed(model: PreTrainedModel, amount: float) -> PreTrainedModel:
    """The model with noise on all weights, the head included."""
    generator = torch.Generator().manual_seed(7)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(amount * torch.randn(weight.shape, generator=generator))
    return other


def windows_of(rows: Sequence[Sequence[int]], score_from: Sequence[int] | None = None) -> Windows:
    count = len(rows)
    return Windows(
        tokens=np.concatenate([np.asarray(row, dtype=np.int32) for row in rows]),
        offsets=np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64),
        score_from=np.asarray(score_from or [1] * count, dtype=np.int32),
        slice=np.zeros(count, np.int32),
        document=np.arange(count, dtype=np.int32),
        slice_names=("text",),
        words=np.zeros(count, np.int64),
        bytes=np.zeros(count, np.int64),
        left_out=np.zeros(count, np.int64),
    )


def ragged_windows(lengths: Sequence[int] = (9, 40, 17, 40, 31, 2, 16), seed: int = 0) -> Windows:
    """Random windows, the later half of them scored from further in."""
    random = np.random.default_rng(seed)
    rows = [random.integers(4, 580, length) for length in lengths]
    starts = [1 if i % 2 else max(1, length // 2) for i, length in enumerate(lengths)]
    return windows_of(rows, starts)


@torch.inference_mode()
def oracle(
    model: PreTrainedModel, windows: Windows, baseline: PreTrainedModel | None = None
) -> dict[str, np.ndarray]:
    """All statistics from full float64 logits of models in float64, window by window."""
    wide = _wide(model)
    wide_baseline = _wide(baseline) if baseline is not None else None
    parts: list[dict[str, torch.Tensor]] = []
    for index in range(len(windows)):
        ids = torch.from_numpy(windows.window(index).astype(np.int64))
        start = int(windows.score_from[index])
        logits = wide(ids[None]).logits[0, start - 1 : -1].double()
        reference = logits
        if wide_baseline is not None:
            reference = wide_baseline(ids[None]).logits[0, start - 1 : -1].double()
        parts.append(direct(logits, ids[start:], reference))
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def direct(
    logits: torch.Tensor, targets: torch.Tensor, reference: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Statistics written down from their definitions, in float64."""
    log_q, log_p = (x.double().log_softmax(-1) for x in (logits, reference))
    q, p = log_q.exp(), log_p.exp()
    true = targets[:, None]
    return {
        "nll": -log_q.gather(1, true)[:, 0],
        "ref_nll": -log_p.gather(1, true)[:, 0],
        "kl": torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1),
        "tv": (p - q).abs().sum(-1) / 2,
        "delta_p": (q - p).gather(1, true)[:, 0],
        "same_top1": (logits.argmax(-1) == reference.argmax(-1)).double(),
    }


def _wide(model: PreTrainedModel) -> PreTrainedModel:
    wide = copy.deepcopy(model).double()
    # Grouped matrix products take no float64.
    wide.config._experts_implementation = "eager"
    return wide
