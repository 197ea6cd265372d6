"""Calibration data for quantizers: seeded samples, and how much of it another text holds."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import DataError, UsageError
from evalkit.texts.encoding import Encode, encode_text

NGRAM = 13

_WORD = re.compile(r"[^\W_]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Overlap:
    """Distinct 13-grams of words that two texts share, and the first of them as an example."""

    count: int
    example: str = ""


def calibration_samples(
    encode: Encode, documents: Sequence[str], *, samples: int, length: int, seed: int
) -> list[list[int]]:
    """`samples` random slices of `length` tokens, equal for equal seeds.

    As in the GPTQ script (Frantar et al. 2023), a slice lies within one document and starts
    anywhere in it; documents are drawn in proportion to their possible starts. Where no document
    is long enough, the slices come from all documents joined by two line breaks.
    Raises DataError where even that is shorter than `length`.
    """
    if samples < 1 or length < 1:
        raise UsageError(f"calibration of {samples} samples of {length} tokens: both must be ≥ 1")
    streams = [encode_text(encode, document) for document in documents]
    long_enough = [stream for stream in streams if len(stream) >= length]
    if not long_enough:
        joined = encode_text(encode, "\n\n".join(documents))
        if len(joined) < length:
            raise DataError(
                f"the calibration text has {len(joined)} tokens, less than one sample of {length}: "
                "give a longer text or shorter samples"
            )
        long_enough = [joined]
    return _slices(long_enough, samples, length, random.Random(seed))


def shared_13grams(calibration: Iterable[str], evaluation: Iterable[str]) -> Overlap:
    """The 13-grams of words that occur in both, within single documents.

    Words are runs of letters and digits in lower case, as in the contamination study of GPT-3
    (Brown et al. 2020, appendix C). Candidates are found by hash and then compared as words, so
    the count is exact.
    """
    numbers: dict[str, int] = {}
    known = _word_ids(calibration, numbers)
    tested = _word_ids(evaluation, numbers)
    common = np.intersect1d(_hashes(known), _hashes(tested))
    candidates = _grams(tested, common)
    shared = set(_grams(known, common)) & set(candidates)
    if not shared:
        return Overlap(0)
    first = next(gram for gram in candidates if gram in shared)
    words = list(numbers)
    return Overlap(len(shared), " ".join(words[number - 1] for number in first))


def _slices(
    streams: list[NDArray[np.int32]], samples: int, length: int, generator: random.Random
) -> list[list[int]]:
    starts = [len(stream) - length + 1 for stream in streams]
    chosen = generator.choices(range(len(streams)), weights=starts, k=samples)
    slices = []
    for index in chosen:
        start = generator.randrange(starts[index])
        slices.append([int(token) for token in streams[index][start : start + length]])
    return slices


def _word_ids(documents: Iterable[str], numbers: dict[str, int]) -> NDArray[np.uint64]:
    """Words as numbers from 1 on, shared through `numbers`; a 0 ends each document."""
    ids: list[int] = []
    for document in documents:
        words = _WORD.findall(document.lower())
        ids += [numbers.setdefault(word, len(numbers) + 1) for word in words]
        ids.append(0)
    return np.asarray(ids, dtype=np.uint64)


def _hashes(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hashes of all 13-grams within documents, uint64."""
    return _all_hashes(ids)[_whole(ids)]


def _all_hashes(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A polynomial hash of the 13 words from each position on; arithmetic modulo 2**64."""
    count = max(0, len(ids) - NGRAM + 1)
    hashes: NDArray[np.uint64] = np.zeros(count, dtype=np.uint64)
    for offset in range(NGRAM):
        hashes = hashes * _MULTIPLIER + ids[offset : offset + count]
    return hashes


def _whole(ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Where the 13 words from a position on lie in one document."""
    ends = np.concatenate(([0], np.cumsum(ids == 0)))
    count = max(0, len(ids) - NGRAM + 1)
    return np.asarray(ends[NGRAM : NGRAM + count] == ends[:count])


def _grams(ids: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> list[tuple[int, ...]]:
    positions = np.flatnonzero(_whole(ids) & np.isin(_all_hashes(ids), hashes))
    return [tuple(ids[start : start + NGRAM].tolist()) for start in positions]
