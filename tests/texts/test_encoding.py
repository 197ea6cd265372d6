from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from evalkit.texts.encoding import encode_text, text_encoder

WORDS = ["the", "of", "a", "in", "cats", "run", "slowly,", "quickly.", "=", "314", "naïve", "東京"]


def sample_text(words: int, seed: int) -> str:
    generator = random.Random(seed)
    breaks = [" "] * 12 + ["\n", "\n\n", "  ", "\n    ", "\r\n"]
    return "".join(generator.choice(WORDS) + generator.choice(breaks) for _ in range(words))


def byte_level(add_bos: bool = False) -> PreTrainedTokenizerFast:
    """A GPT-2-like tokenizer: byte-level BPE after a regular expression."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([sample_text(2000, 0)], trainer)
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def llama_like() -> PreTrainedTokenizerFast:
    """Like Llama's: a blank is put before the text, and merges may cross words."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["▁" + line.replace(" ", "▁") for line in sample_text(2000, 0).split("\n")], trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("make", [byte_level, llama_like])
@pytest.mark.parametrize("chunk", [50, 333, 5000])
def test_cutting_long_texts_changes_no_token(make: Any, chunk: int) -> None:
    encode = text_encoder(make()).encode
    text = sample_text(3000, seed=chunk)
    calls: list[int] = []

    def counted(piece: str) -> list[int]:
        calls.append(len(piece))
        return encode(piece)

    assert encode_text(counted, text, chunk).tolist() == encode(text)
    assert max(calls) < len(text)


def test_a_tokenizer_that_sees_across_lines_is_given_the_whole_text() -> None:
    """Each id depends on all characters before it: no cut can be exact."""

    def encode(text: str) -> list[int]:
        return [sum(map(ord, text[: i + 1])) % 50_021 for i in range(len(text))]

    text = sample_text(100, 1)
    assert encode_text(encode, text, 40).tolist() == encode(text)


def test_empty_text_has_no_tokens() -> None:
    ids = encode_text(text_encoder(byte_level()).encode, "")
    assert ids.dtype == np.int32
    assert ids.size == 0


def test_special_strings_in_a_text_are_text() -> None:
    tokenizer = byte_level(add_bos=True)
    encoder = text_encoder(tokenizer)
    assert (encoder.bos_id, encoder.eos_id, encoder.adds_bos) == (0, 1, True)
    ids = encoder.encode("a</s>b<s>")
    assert not {0, 1} & set(ids)
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == "a</s>b<s>"
    assert tokenizer("</s>").input_ids == [0, 1]


def test_a_tokenizer_that_has_but_does_not_add_bos() -> None:
    encoder = text_encoder(byte_level())
    assert (encoder.bos_id, encoder.adds_bos) == (0, False)


def test_stories_tokenizer_adds_bos(shared: Path) -> None:
    from transformers import AutoTokenizer

    encoder = text_encoder(AutoTokenizer.from_pretrained(shared / "models" / "stories260k"))
    assert (encoder.bos_id, encoder.eos_id, encoder.adds_bos) == (1, 2, True)
    assert 1 not in encoder.encode("<s>Once")


def test_real_texts_are_cut_exactly(shared: Path) -> None:
    """The ranks of GPT-2 on prose and on code, in one piece and in many."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(shared / "data" / "vocab" / "gpt2_tokenizer.json")
    )
    encode = text_encoder(tokenizer).encode
    for name in ("wiki.test.raw", "code_sample.txt"):
        text = (shared / "data" / "text" / name).read_text(encoding="utf-8")[:300_000]
        assert encode_text(encode, text, 7000).tolist() == encode(text)
