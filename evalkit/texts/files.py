"""Texts of files on this machine: one file, compressed or not, or all files of a directory."""

from __future__ import annotations

from pathlib import Path

from evalkit.errors import DataError, did_you_mean
from evalkit.paths import expanded, is_dir, is_file
from evalkit.texts.columns import SEPARATOR, Documents
from evalkit.texts.formats import format_of

# Ending, first bytes and the name of the codec of pyarrow.
COMPRESSIONS = {".gz": (b"\x1f\x8b", "gzip"), ".zst": (b"\x28\xb5\x2f\xfd", "zstd")}
# What holds no text although its first bytes could be decoded, or tells little when it cannot.
_OTHER = {b"PK\x03\x04": "a zip archive", b"%PDF": "a PDF", b"BZh": "compressed by bzip2",
          b"\xfd7zXZ": "compressed by xz"}  # fmt: skip
_CRLF = "\r\n"


def text_name(path: Path) -> str:
    """What the text of a file or directory is called: its name without endings."""
    bare = bare_name(path.name)
    return path.name if is_dir(path) else Path(bare).stem


def located(source: str) -> tuple[Path, str]:
    """The path and the column that `PATH` or `PATH::COLUMN` names; raises DataError for neither."""
    path = expanded(source)
    column = ""
    if SEPARATOR in source and not (is_file(path) or is_dir(path)):
        before, _, column = source.rpartition(SEPARATOR)
        path = expanded(before)
    if is_dir(path) or is_file(path):
        return path, column
    siblings = path.parent.iterdir() if is_dir(path.parent) else ()
    hint = did_you_mean(path.name, (p.name for p in siblings if is_file(p)))
    raise DataError(f"text {source} does not exist{hint or '; check the path'}")


def read_files(path: Path, column: str, limit: int | None) -> Documents:
    """The documents of a file, or of all files of a directory in the order of their names.

    Hidden files are left out. Raises DataError in one line for what cannot be read as text.
    """
    if not is_dir(path):
        return _read(path, column, limit)
    files = sorted(
        file
        for file in path.rglob("*")
        if is_file(file) and not any(p.startswith(".") for p in file.relative_to(path).parts)
    )
    if not files:
        raise DataError(f"text {path} is a directory without files: name one that holds texts")
    documents: list[str] = []
    columns: set[str] = set()
    notes: list[str] = []
    for file in files:
        if limit is not None and len(documents) >= limit:
            break
        # A column is that of the tables in it; plain text beside them has none.
        asked = column if format_of(bare_name(file.name)).name != "plain text" else ""
        found = _read(file, asked, None if limit is None else limit - len(documents))
        documents += found.documents
        columns.add(found.column)
        notes += found.notes
    return Documents(documents, columns.pop() if len(columns) == 1 else "", tuple(notes))


def _read(path: Path, column: str, limit: int | None) -> Documents:
    raw = file_content(path)
    for start, what in _OTHER.items():
        if raw.startswith(start):
            raise DataError(f"text {path} is {what}: give it as text, .gz or .zst")
    found = format_of(bare_name(path.name)).read(str(path), raw, column, limit)
    if not any(_CRLF in document for document in found.documents):
        return found
    note = (
        f"text {path} has line ends of Windows (CRLF), which are scored as they are: convert it"
        " with dos2unix where they do not belong to the text"
    )
    return Documents(found.documents, found.column, (*found.notes, note))


def bare_name(name: str) -> str:
    """`name` without the ending of its compression."""
    ending = Path(name).suffix.lower()
    return name[: -len(ending)] if ending in COMPRESSIONS else name


def file_content(path: Path) -> bytes:
    """The bytes of a file, decompressed; raises DataError where they cannot be read."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"text {path} cannot be read: {error.strerror}") from error
    ending = path.suffix.lower()
    for known, (start, codec) in COMPRESSIONS.items():
        if raw.startswith(start):
            return _decompressed(path, raw, codec)
        if ending == known:
            raise DataError(f"text {path} is not compressed by {codec}, as its name says")
    return raw


def _decompressed(path: Path, raw: bytes, codec: str) -> bytes:
    import pyarrow as pa

    try:
        with pa.CompressedInputStream(pa.BufferReader(raw), codec) as stream:
            return bytes(stream.read())
    except (pa.ArrowException, OSError) as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"text {path} cannot be decompressed ({line}): copy it again") from error
