"""How a file of texts is read, by the ending of its name: FORMATS is the whole list.

CSV is read by Python's own module and Parquet by pyarrow, not by `datasets`: that guesses the types
of a CSV's cells, so that the text "NA" is lost and "1.0" becomes a number, and writes a copy of
every file into its cache.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.errors import DataError
from evalkit.texts.columns import SEPARATOR, TEXT_FIELDS, Documents, choose_column, listed

DOCUMENT_END = re.compile(r"^<\|endoftext\|>[ \t]*\r?$", re.MULTILINE)
_MOST_CELL = 2**31 - 1


@dataclass(frozen=True)
class Format:
    """One kind of file: its name, the endings of its files, what one document is, and a reader.

    `read(source, raw, column, limit)` takes the bytes of a file, the column that was named ("" for
    none) and the number of documents wanted. A file of any other ending is plain text.
    """

    name: str
    endings: tuple[str, ...]
    document: str
    read: Callable[[str, bytes, str, int | None], Documents]


def format_of(name: str) -> Format:
    """The format of a file called `name`, without the ending of its compression."""
    lower = name.lower()
    return next((one for one in FORMATS[1:] if lower.endswith(one.endings)), FORMATS[0])


def decoded(source: str, raw: bytes) -> str:
    """`raw` as text without a byte order mark; raises DataError where it is not UTF-8."""
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "ITS_ENCODING"
        raise DataError(
            f"text {source} is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}; "
            f"convert it with iconv -f {encoding} -t UTF-8"
        ) from error


def _plain(source: str, raw: bytes, column: str, limit: int | None) -> Documents:
    content = decoded(source, raw)
    if column:
        raise DataError(
            f"text {source} is plain text and has no column {column!r}: columns are those of"
            f" {listed([ending for one in FORMATS[1:] for ending in one.endings])}"
        )
    notes = _looks_like_json(source, content)
    if not DOCUMENT_END.search(content):
        return Documents([content], notes=notes)
    # The line breaks around a separator belong to its line, not to the documents.
    documents = [part.strip("\r\n") for part in DOCUMENT_END.split(content)]
    return Documents([one for one in documents if one.strip()][:limit], notes=notes)


def _looks_like_json(source: str, content: str) -> tuple[str, ...]:
    if content.lstrip()[:1] not in ("[", "{"):
        return ()
    try:
        parsed = isinstance(json.loads(content), list | dict)
    except (ValueError, RecursionError):
        return ()
    return (f"text {source} is JSON and scored as plain text: name it .json",) if parsed else ()


def _lines(source: str, raw: bytes, column: str, limit: int | None) -> Documents:
    """JSON Lines: an object a line."""
    documents: list[str] = []
    # Only \n ends a line of JSONL; str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(decoded(source, raw).split("\n"), start=1):
        if limit is not None and len(documents) == limit:
            break
        if not line.strip():
            continue
        record = json_object(source, number, line)
        column = column or next((f for f in TEXT_FIELDS if f in record), TEXT_FIELDS[0])
        documents.append(_text_field(f"{source} line {number}", record, column))
    return Documents(documents, column)


def json_object(source: str, number: int, line: str) -> dict[str, object]:
    """The object in a line of JSON Lines; raises DataError for anything else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "cannot be parsed"
        raise DataError(
            f"{source} line {number} is not JSON ({reason}): each line must be one object"
        ) from error
    if not isinstance(record, dict):
        raise DataError(
            f"{source} line {number} is a JSON {type(record).__name__}: each line must be one"
            " object"
        )
    return record


def refuse_surrogates(where: str, field: str, value: str) -> None:
    """Raise DataError for text that no encoding can write."""
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(
            f"{where}: field {field!r} has an unpaired surrogate; "
            "write the character itself or a pair of \\u escapes"
        )


def _text_field(where: str, record: dict[str, object], field: str) -> str:
    value = record.get(field)
    if isinstance(value, str):
        refuse_surrogates(where, field, value)
        return value
    if field in record:
        raise DataError(f"{where}: field {field!r} is {type(value).__name__}, not text")
    raise DataError(
        f"{where} has no field {field!r}: fields at hand are {listed(sorted(record))}; call it"
        f" {' or '.join(map(repr, TEXT_FIELDS))}, or name it as FILE{SEPARATOR}FIELD"
    )


def _array(source: str, raw: bytes, column: str, limit: int | None) -> Documents:
    """JSON: an array of texts or of objects; else an object a line."""
    content = decoded(source, raw)
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        if content.lstrip()[:1] == "{":
            return _lines(source, raw, column, limit)
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "cannot be parsed"
        raise DataError(f"text {source} is not JSON ({reason})") from error
    if isinstance(rows, dict) and isinstance(rows.get(column or TEXT_FIELDS[0]), str):
        rows = [rows]
    if not isinstance(rows, list) or not all(isinstance(row, dict | str) for row in rows):
        raise DataError(
            f"text {source} is a JSON {type(rows).__name__}: an array of texts or of objects with"
            " a field of text is expected"
        )
    rows = rows[:limit]
    if all(isinstance(row, str) for row in rows):
        return Documents([_text_field(f"{source} item", {"": row}, "") for row in rows])
    objects = [row if isinstance(row, dict) else {} for row in rows]
    names = dict.fromkeys(name for row in objects for name in row)
    kinds = {name: any(isinstance(row.get(name), str) for row in objects) for name in names}
    chosen, notes = choose_column(source, kinds, column)
    found = [
        _text_field(f"{source} item {number}", row, chosen)
        for number, row in enumerate(objects, start=1)
    ]
    return Documents(found, chosen, notes)


def _separated(delimiter: str) -> Callable[[str, bytes, str, int | None], Documents]:
    def read(source: str, raw: bytes, column: str, limit: int | None) -> Documents:
        rows = cells_of(source, decoded(source, raw), delimiter)
        if not rows:
            return Documents([])
        header, cells = rows[0], rows[1:]
        kinds = {
            name: any(not _is_number(row[place]) for row in cells if row[place].strip())
            for place, name in enumerate(header)
        }
        chosen, notes = choose_column(source, kinds, column)
        place = header.index(chosen)
        return Documents([row[place] for row in cells[:limit]], chosen, notes)

    return read


def cells_of(source: str, content: str, delimiter: str) -> list[list[str]]:
    """The rows of a CSV or TSV file, all as long as its header."""
    most = csv.field_size_limit(_MOST_CELL)
    # As in a file opened with newline="": line ends inside quotes are kept.
    reader = csv.reader(_kept_lines(content), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    try:
        for row in reader:
            if rows and row and len(row) != len(rows[0]):
                raise DataError(
                    f"text {source} line {reader.line_num} has {len(row)} cells, its header"
                    f" {len(rows[0])}: put cells with {delimiter!r} in double quotes"
                )
            rows += [row] if row else []
    except csv.Error as error:
        raise DataError(f"text {source} line {reader.line_num} cannot be read: {error}") from error
    finally:
        csv.field_size_limit(most)
    return rows


def _kept_lines(content: str) -> Sequence[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", content)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parquet(source: str, raw: bytes, column: str, limit: int | None) -> Documents:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(raw))
        kinds = {field.name: _is_text(field.type) for field in file.schema_arrow}
        chosen, notes = choose_column(source, kinds, column)
        values: list[Any] = file.read([chosen])[chosen].slice(0, limit).to_pylist()
    except (pa.ArrowException, OSError) as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"text {source} is not Parquet ({line})") from error
    return Documents(["" if value is None else str(value) for value in values], chosen, notes)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


FORMATS = (
    Format(
        "plain text",
        (".txt", ".md", ".raw"),
        "the whole file, or what lies between lines `<|endoftext|>`",
        _plain,
    ),
    Format("JSON Lines", (".jsonl", ".ndjson"), "the field `text` or `page` of a line", _lines),
    Format("JSON", (".json",), "an entry of the array: a text, or a field of an object", _array),
    Format("CSV", (".csv",), "a row; the first line names the columns", _separated(",")),
    Format("TSV", (".tsv", ".tab"), "a row; the first line names the columns", _separated("\t")),
    Format("Parquet", (".parquet", ".pq"), "a row; an empty cell is an empty document", _parquet),
)
