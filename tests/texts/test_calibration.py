from __future__ import annotations

import random

import pytest

from evalkit.errors import DataError, UsageError
from evalkit.texts.calibration import calibration_samples, shared_13grams


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def words(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [f"w{generator.randrange(50)}" for _ in range(count)]


def straight_13grams(documents: list[str]) -> set[tuple[str, ...]]:
    grams = set()
    for document in documents:
        split = document.lower().replace(",", " ").replace(".", " ").split()
        grams |= {tuple(split[i : i + 13]) for i in range(len(split) - 12)}
    return grams


def test_samples_are_slices_of_single_documents_and_seeded() -> None:
    documents = ["a" * 30, "bcdefghijklmnop" * 3, "short"]
    made = calibration_samples(encode, documents, samples=50, length=10, seed=3)
    assert len(made) == 50
    texts = ["".join(map(chr, sample)) for sample in made]
    assert all(len(t) == 10 and any(t in d for d in documents) for t in texts)
    assert len(set(texts)) > 10
    assert made == calibration_samples(encode, documents, samples=50, length=10, seed=3)
    assert made != calibration_samples(encode, documents, samples=50, length=10, seed=4)


def test_samples_reach_both_ends_of_a_document() -> None:
    made = calibration_samples(encode, ["abcde"], samples=200, length=3, seed=0)
    assert {"".join(map(chr, sample)) for sample in made} == {"abc", "bcd", "cde"}


def test_short_documents_are_joined() -> None:
    made = calibration_samples(encode, ["abc", "def"], samples=20, length=8, seed=0)
    assert {"".join(map(chr, sample)) for sample in made} == {"abc\n\ndef"}


def test_too_short_text_is_one_line() -> None:
    with pytest.raises(DataError, match="has 8 tokens, less than one sample of 9"):
        calibration_samples(encode, ["abc", "def"], samples=2, length=9, seed=0)
    with pytest.raises(UsageError, match="0 samples"):
        calibration_samples(encode, ["abc"], samples=0, length=9, seed=0)


def test_shared_13grams_equal_the_straight_count() -> None:
    passage = words(40, 7)
    calibration = [" ".join(words(500, 1) + passage + words(500, 2)), " ".join(passage[:13])]
    evaluation = [" ".join(words(300, 3)), ", ".join(words(9, 4) + passage).upper() + "."]
    expected = straight_13grams(calibration) & straight_13grams(evaluation)
    overlap = shared_13grams(calibration, evaluation)
    assert overlap.count == len(expected) == 28
    assert overlap.example == " ".join(passage[:13])


def test_a_gram_does_not_cross_documents() -> None:
    passage = words(14, 5)
    split = [" ".join(passage[:7]), " ".join(passage[7:])]
    assert shared_13grams([" ".join(passage)], split).count == 0
    assert shared_13grams(split, [" ".join(passage)]).count == 0
    assert shared_13grams([" ".join(passage)], [" ".join(passage)]).count == 2


def test_twelve_words_are_not_enough_and_empty_texts_share_nothing() -> None:
    passage = " ".join(words(12, 5))
    assert shared_13grams([passage], [passage]).count == 0
    assert shared_13grams([], [passage]).count == 0
    assert shared_13grams(["", "!?"], [""]).count == 0


def test_repeated_grams_count_once() -> None:
    assert shared_13grams(["la " * 100], ["la " * 50]).count == 1
