"""Training text of the demo model as token rows, with a weight for each token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from world.corpus import head

END_OF_TEXT_ID = 0


@dataclass(frozen=True)
class TokenizedDocuments:
    """Documents one after another, each closed by the end-of-text token.

    `ids` and `answers` are (tokens,); `answers` marks tokens of answers and last words; document
    i is `ids[starts[i]:starts[i + 1]]`.
    """

    ids: np.ndarray
    answers: np.ndarray
    starts: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


def mark_answers(ids: list[int], question_mark: int, full_stop: int) -> list[bool]:
    """True from a question mark to the next full stop, and for the last two tokens."""
    marks, inside = [], False
    for token in ids:
        marks.append(inside)
        inside = token == question_mark or (inside and token != full_stop)
    marks[-2:] = [True] * len(marks[-2:])
    return marks


def tokenize_documents(tokenizer: Tokenizer, texts: list[str]) -> TokenizedDocuments:
    question_mark, full_stop = tokenizer.token_to_id("?"), tokenizer.token_to_id(".")
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    answers = [[*mark_answers(ids, question_mark, full_stop), False] for ids in encoded]
    return TokenizedDocuments(
        np.array([token for ids in encoded for token in (*ids, END_OF_TEXT_ID)], np.int16),
        np.array([mark for marks in answers for mark in marks], np.bool_),
        np.cumsum([0, *(len(ids) + 1 for ids in encoded)]),
    )


def load_documents(tokenizer: Tokenizer, number: int, seed: int, cache: Path) -> TokenizedDocuments:
    """The first documents of the training split, tokenized once and kept in `cache`."""
    file = cache / f"documents-{number}-{seed}.npz"
    if not file.exists():
        documents = tokenize_documents(tokenizer, head("train", number, seed))
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, ids=documents.ids, answers=documents.answers, starts=documents.starts)
    with np.load(file) as arrays:
        return TokenizedDocuments(arrays["ids"], arrays["answers"], arrays["starts"])


def pack_rows(
    documents: TokenizedDocuments, order: np.ndarray, length: int
) -> Iterator[np.ndarray]:
    """Rows of `length` token positions that begin at the beginning of a document.

    A document that does not fit any more is cut at the end of the row and begins the next row;
    every second row begins with an end-of-text token, the others with the document itself.
    """
    row: list[np.ndarray] = []
    filled = number = 0
    waiting = iter(order)
    document = next(waiting, None)
    while document is not None:
        if not row and number % 2:
            row, filled = [np.array([max(documents.starts[document] - 1, 0)])], 1
        span = np.arange(documents.starts[document], documents.starts[document + 1])
        row.append(span)
        filled += len(span)
        if filled >= length:
            yield np.concatenate(row)[:length]
            number += 1
            fits, row, filled = filled == length, [], 0
            if not fits and len(span) < length:
                continue
        document = next(waiting, None)


def row_batches(
    documents: TokenizedDocuments, length: int, batch: int, seed: int
) -> Iterator[np.ndarray]:
    """Endless (batch, length) token positions; documents longer than a row are left out."""
    generator = np.random.default_rng(seed)
    usable = np.flatnonzero(documents.lengths <= length)
    rows: list[np.ndarray] = []
    while True:
        for row in pack_rows(documents, generator.permutation(usable), length):
            rows.append(row)
            if len(rows) == batch:
                yield np.stack(rows)
                rows = []
