"""Evaluation texts: files and hub datasets as named lists of documents.

`PATH` or `PATH::COLUMN` is a file or a directory of files (texts/formats.py lists the formats);
`hf:NAME[:CONFIG][:SPLIT][:FIELD]` is a dataset of the Hugging Face hub (texts/hub.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from evalkit.errors import DataError
from evalkit.texts.columns import TEXT_FIELDS
from evalkit.texts.files import located, read_files, text_name
from evalkit.texts.hub import HUB_PREFIX, hub_documents, hub_name


@dataclass(frozen=True)
class Text:
    """One evaluation text, a slice of a suite.

    `documents` are as read; documents of a dataset may be empty strings. `sha256` is the content:
    documents, their order and the field `page`, not the name. `pages` says that the documents
    come from a field `page`, the schema of lm-eval's wikitext task, which the window convention
    `lm-eval` detokenizes as that task does. `notes` are lines about how it was read.
    """

    name: str
    documents: tuple[str, ...]
    sha256: str
    pages: bool = False
    notes: tuple[str, ...] = ()


def load_text(source: str, *, limit: int | None = None, offline: bool = False) -> Text:
    """The text of a file, directory or hub dataset; `limit` keeps its first N documents.

    Raises DataError (one line) for a file that is missing, empty, not UTF-8 or not of the format
    its name says, for a column that is not there or would have to be guessed among several, and
    for a dataset that cannot be had.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit}: at least 1 document is needed; leave it out for all")
    notes: tuple[str, ...] = ()
    if source.startswith(HUB_PREFIX):
        name = hub_name(source)
        documents, field = hub_documents(source, TEXT_FIELDS, limit=limit, offline=offline)
    else:
        path, column = located(source)
        found = read_files(path, column, limit)
        name, documents, field, notes = (
            text_name(path), found.documents, found.column, found.notes
        )  # fmt: skip
    if not any(document.strip() for document in documents):
        raise DataError(f"text {source} is empty: give a text with at least one word")
    pages = field == "page"
    return Text(name, tuple(documents), _content_hash(documents, pages), pages, notes)


def load_texts(
    sources: Sequence[str], *, limit: int | None = None, offline: bool = False
) -> tuple[Text, ...]:
    """The texts of several sources with unique names: equal ones get the suffixes -2, -3 …."""
    texts = [load_text(source, limit=limit, offline=offline) for source in sources]
    return tuple(
        replace(text, name=name)
        for text, name in zip(texts, _unique(text.name for text in texts), strict=True)
    )


def _unique(names: Iterable[str]) -> list[str]:
    unique: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in unique:
            number += 1
            candidate = f"{name}-{number}"
        unique.append(candidate)
    return unique


def _content_hash(documents: Sequence[str], pages: bool) -> str:
    digest = hashlib.sha256(b"pages" if pages else b"text")
    for document in documents:
        content = document.encode()
        # The length before each document keeps the borders between documents in the hash.
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()
