"""A tiny Llama with its own tokenizer, made in the tests."""

from __future__ import annotations

import random
from pathlib import Path

SENTENCE = """
the a small old red house tree river stone bird sees finds keeps loses takes brings
near under over before after and then but so who it was is had went came
"""
WORDS = SENTENCE.split()


def text(seed: int, sentences: int) -> str:
    """Sentences of random words; other seeds share no 13 words in a row."""
    generator = random.Random(seed)
    lines = [
        " ".join(generator.choices(WORDS, k=generator.randint(5, 12))) for _ in range(sentences)
    ]
    return ". ".join(lines) + "."


def documents(seed: int, count: int, sentences: int = 6) -> str:
    """A text file of several documents."""
    return "\n<|endoftext|>\n".join(text(seed + i, sentences) for i in range(count)) + "\n"


def multiple_choice(name: str, data: Path) -> str:
    """YAML of a task over the JSON lines of `data`: q, choices, and the answer's number."""
    return f"""
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def make_llama(path: Path, *, hidden: int = 64, intermediate: int = 96) -> Path:
    """Save a random float32 Llama of two layers and a byte-level BPE tokenizer into `path`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text(0, 200)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    fast.save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path
