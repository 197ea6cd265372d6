"""Small checkpoints for the backends' tests: a Llama and a Phi-3 Small, with a tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from evalkit.models.phi3_small import Phi3SmallConfig, Phi3SmallForCausalLM

VOCABULARY = 256


def save_tokenizer(path: Path) -> None:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="w0", eos_token="w1", pad_token="w1"
    )
    fast.save_pretrained(path)


def save(model: PreTrainedModel, path: Path) -> Path:
    model.half().save_pretrained(path)
    save_tokenizer(path)
    return path


def make_llama(path: Path, *, intermediate: int = 256, vocabulary: int = VOCABULARY) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=1,
    )
    return save(LlamaForCausalLM(config), path)


def make_phi(path: Path) -> Path:
    """Sparse within 32 tokens, so that calibration and tests of 64 tokens meet the pattern."""
    torch.manual_seed(0)
    config = Phi3SmallConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        ff_intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        blocksparse_block_size=16,
        blocksparse_num_local_blocks=2,
        blocksparse_vert_stride=4,
        mup_width_multiplier=2.0,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=1,
    )
    return save(Phi3SmallForCausalLM(config), path)


def token_ids(rows: int = 1, length: int = 64) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(3))


def calibration(samples: int = 8, length: int = 64) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, VOCABULARY, (samples, length), generator=generator).tolist()


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(token_ids()).logits.float()


def kl_divergence(reference: torch.Tensor, other: torch.Tensor) -> float:
    p, q = reference.log_softmax(-1), other.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def disk_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))
