"""Prompts of a file: texts or chats to be answered, with an optional reference and check.

In JSON, JSONL, CSV, TSV and Parquet an entry has `prompt` (a text) or `messages` (a list of turns
with `role` and `content`), and may have `reference` and `check`. In plain text each line is a
prompt, or what lies between lines `<|endoftext|>`. The files are read as texts are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from evalkit.demo_data import demo_directory
from evalkit.errors import DataError, did_you_mean
from evalkit.records.answers import Check, Message, Prompt
from evalkit.texts.columns import SEPARATOR, listed
from evalkit.texts.files import bare_name, file_content, located
from evalkit.texts.formats import (
    DOCUMENT_END,
    cells_of,
    decoded,
    format_of,
    json_object,
    refuse_surrogates,
)

PROMPT, MESSAGES, REFERENCE, CHECK = "prompt", "messages", "reference", "check"
# The word for the prompts of the embedded demo.
DEMO = "demo"
CHECKS: tuple[str, ...] = get_args(Check)
ROLES = ("system", "user", "assistant")
_DELIMITERS = {"CSV": ",", "TSV": "\t"}

Entry = Mapping[str, Any]


def load_prompts(source: str, limit: int | None = None) -> tuple[Prompt, ...]:
    """The prompts of `PATH` or `PATH::COLUMN`, the first `limit` of them; `demo` has some.

    Raises DataError in one line for a file that cannot be read, an entry without a prompt, and a
    check that is not known or lacks its reference.
    """
    if source == DEMO:
        source = str(demo_directory() / "prompts" / "town_prompts.jsonl")
    path, column = located(source)
    if path.is_dir():
        raise DataError(f"prompts {source} is a directory: name one file")
    entries = _entries(str(path), file_content(path), format_of(bare_name(path.name)).name)
    found = tuple(
        _prompt(f"{path} entry {number}", entry, column or PROMPT)
        for number, entry in enumerate(entries[:limit], start=1)
    )
    if not found:
        raise DataError(f"prompts {source} holds none: give a file with at least one prompt")
    return found


def _entries(source: str, raw: bytes, kind: str) -> Sequence[Entry]:
    if kind == "Parquet":
        return _parquet(source, raw)
    content = decoded(source, raw)
    if kind in _DELIMITERS:
        header, *rows = cells_of(source, content, _DELIMITERS[kind]) or [[]]
        return [dict(zip(header, row, strict=True)) for row in rows]
    if kind == "JSON Lines":
        lines = enumerate(content.split("\n"), start=1)
        return [json_object(source, number, line) for number, line in lines if line.strip()]
    if kind == "JSON":
        return _array(source, content)
    pieces = DOCUMENT_END.split(content) if DOCUMENT_END.search(content) else content.split("\n")
    return [{PROMPT: piece.strip("\r\n")} for piece in pieces if piece.strip()]


def _array(source: str, content: str) -> Sequence[Entry]:
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "cannot be parsed"
        raise DataError(f"prompts {source} are not JSON ({reason})") from error
    if not isinstance(entries, list) or not all(isinstance(one, dict | str) for one in entries):
        raise DataError(f"prompts {source}: an array of texts or of objects is expected")
    return [{PROMPT: one} if isinstance(one, str) else one for one in entries]


def _parquet(source: str, raw: bytes) -> Sequence[Entry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[Entry] = pq.read_table(pa.BufferReader(raw)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"prompts {source} are not Parquet ({line})") from error
    return rows


def _prompt(where: str, entry: Entry, column: str) -> Prompt:
    messages = _messages(where, entry.get(MESSAGES))
    text = messages[-1].content if messages else entry.get(column)
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"{where} has no text {column!r} and no {MESSAGES!r}: fields at hand are"
            f" {listed(list(entry))}; name another as FILE{SEPARATOR}FIELD"
        )
    for turn in (text, *(one.content for one in messages)):
        refuse_surrogates(where, column, turn)
    reference, check = _words(entry.get(REFERENCE)), _words(entry.get(CHECK))
    if check and check not in CHECKS:
        hint = did_you_mean(check, CHECKS)
        raise DataError(f"{where}: unknown check {check!r}: allowed are {listed(CHECKS)}{hint}")
    if check and check != "json" and not reference:
        raise DataError(f"{where}: the check {check!r} needs a {REFERENCE!r}")
    check = check or ("contains" if reference else "")
    _check_reference(where, check, reference)
    return Prompt(text, messages, reference, check)  # type: ignore[arg-type]


def _check_reference(where: str, check: str, reference: str) -> None:
    """Raise DataError for a reference that its check cannot read."""
    try:
        if check == "regex":
            re.compile(reference)
        if check == "number":
            float(reference.replace(",", ""))
    except (re.error, ValueError) as error:
        raise DataError(f"{where}: {REFERENCE} {reference!r} is no {check} ({error})") from error


def _messages(where: str, value: Any) -> tuple[Message, ...]:
    """The turns of a chat, of which the last is the user's; in a CSV they are JSON."""
    if not value:
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: {MESSAGES!r} are not JSON") from error
    fits = isinstance(value, list) and all(
        isinstance(turn, dict)
        and turn.get("role") in ROLES
        and isinstance(turn.get("content"), str)
        for turn in value
    )
    if not fits or value[-1]["role"] != "user":
        raise DataError(
            f"{where}: {MESSAGES!r} must be a list of objects with `role` ({listed(ROLES)}) and"
            " `content`, the last one the user's"
        )
    return tuple(Message(turn["role"], turn["content"]) for turn in value)


def _words(value: Any) -> str:
    """A cell as text; numbers of JSON and Parquet too."""
    return "" if value is None else str(value).strip()
