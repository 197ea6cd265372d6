"""Evaluation texts: files and hub datasets as named lists of documents.

A plain file is one document, or several separated by lines `<|endoftext|>`; a JSONL file has one
document a line in its field `text` or `page`; `hf:NAME[:CONFIG][:SPLIT][:FIELD]` is a dataset of
the Hugging Face hub (suites/hub.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evalkit.errors import DataError, did_you_mean
from evalkit.paths import expanded
from evalkit.texts.hub import HUB_PREFIX, hub_documents, hub_name

TEXT_FIELDS = ("text", "page")
JSONL_SUFFIXES = (".jsonl", ".ndjson")
_SEPARATOR = re.compile(r"^<\|endoftext\|>[ \t]*\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Text:
    """One evaluation text, a slice of a suite.

    `documents` are as read; documents of a dataset may be empty strings. `sha256` is the content:
    documents, their order and the field `page`, not the name. `pages` says that the documents
    come from a field `page`, the schema of lm-eval's wikitext task, which the window convention
    `lm-eval` detokenizes as that task does.
    """

    name: str
    documents: tuple[str, ...]
    sha256: str
    pages: bool = False


def load_text(source: str, *, limit: int | None = None, offline: bool = False) -> Text:
    """The text of a file or hub dataset; `limit` keeps its first N documents.

    Raises DataError (one line) for a file that is missing, empty, not UTF-8, or whose JSON or
    text field is wrong, and for a dataset that cannot be had.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit}: at least 1 document is needed; leave it out for all")
    if source.startswith(HUB_PREFIX):
        name = hub_name(source)
        documents, field = hub_documents(source, TEXT_FIELDS, limit=limit, offline=offline)
    else:
        path = _existing_file(source)
        name = path.stem
        documents, field = _read_documents(path, limit)
    if not any(document.strip() for document in documents):
        raise DataError(f"text {source} is empty: give a text with at least one word")
    pages = field == "page"
    return Text(name, tuple(documents), _content_hash(documents, pages), pages)


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


def _existing_file(source: str) -> Path:
    path = expanded(source)
    if path.is_dir():
        raise DataError(f"text {source} is a directory: name one file in it")
    if not path.exists():
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        hint = did_you_mean(path.name, (p.name for p in siblings if p.is_file()))
        raise DataError(f"text {source} does not exist{hint or '; check the path'}")
    return path


def _read_documents(path: Path, limit: int | None) -> tuple[list[str], str]:
    content = _decoded(path)
    if path.suffix.lower() in JSONL_SUFFIXES:
        return _jsonl_documents(path, content, limit)
    if not _SEPARATOR.search(content):
        return [content], ""
    # The line breaks around a separator belong to its line, not to the documents.
    documents = [part.strip("\r\n") for part in _SEPARATOR.split(content)]
    return [document for document in documents if document.strip()][:limit], ""


def _decoded(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"text {path} cannot be read: {error.strerror}") from error
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "ITS_ENCODING"
        raise DataError(
            f"text {path} is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}; "
            f"convert it with iconv -f {encoding} -t UTF-8"
        ) from error


def _jsonl_documents(path: Path, content: str, limit: int | None) -> tuple[list[str], str]:
    documents: list[str] = []
    field = ""
    # Only \n ends a line of JSONL; str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(content.split("\n"), start=1):
        if limit is not None and len(documents) == limit:
            break
        if not line.strip():
            continue
        record = _json_object(path, number, line)
        field = field or next((f for f in TEXT_FIELDS if f in record), TEXT_FIELDS[0])
        documents.append(_text_field(path, number, record, field))
    return documents, field


def _json_object(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "cannot be parsed"
        raise DataError(
            f"{path} line {number} is not JSON ({reason}): each line must be one object"
        ) from error
    if not isinstance(record, dict):
        raise DataError(
            f"{path} line {number} is a JSON {type(record).__name__}: each line must be one object"
        )
    return record


def _text_field(path: Path, number: int, record: dict[str, object], field: str) -> str:
    value = record.get(field)
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise DataError(
                f"{path} line {number}: field {field!r} has an unpaired surrogate; "
                "write the character itself or a pair of \\u escapes"
            )
        return value
    if field in record:
        raise DataError(
            f"{path} line {number}: field {field!r} is {type(value).__name__}, not text"
        )
    at_hand = ", ".join(sorted(record)) or "none"
    raise DataError(
        f"{path} line {number} has no field {field!r}: fields at hand are {at_hand}; "
        f"name the column of the text {' or '.join(map(repr, TEXT_FIELDS))}"
    )


def _content_hash(documents: Sequence[str], pages: bool) -> str:
    digest = hashlib.sha256(b"pages" if pages else b"text")
    for document in documents:
        content = document.encode()
        # The length before each document keeps the borders between documents in the hash.
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()
