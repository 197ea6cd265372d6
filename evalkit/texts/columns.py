"""Which column of a table holds its texts: the one that is named, else `text`, `page` or the only
one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from evalkit.errors import DataError, did_you_mean

TEXT_FIELDS = ("text", "page")
SEPARATOR = "::"


@dataclass(frozen=True)
class Documents:
    """Documents as read, the column they come from ("" for plain text), lines worth a note."""

    documents: list[str]
    column: str = ""
    notes: tuple[str, ...] = ()


def choose_column(
    source: str, columns: Mapping[str, bool], asked: str
) -> tuple[str, tuple[str, ...]]:
    """The column of the texts, and a note where it was guessed.

    `columns` says of each column whether it holds text. Raises DataError where `asked` is none of
    them or holds no text, and where it would have to be guessed among several.
    """
    if asked:
        _require(source, columns, asked)
        return asked, ()
    if known := next((name for name in TEXT_FIELDS if columns.get(name)), ""):
        return known, ()
    texts = [name for name, is_text in columns.items() if is_text]
    if len(texts) == 1:
        return texts[0], (
            f"text {source}: column {texts[0]!r} is taken, the only one that holds text",
        )
    if not texts:
        raise DataError(
            f"text {source}: no column holds text (columns are {listed(columns)}): give a table"
            " that has one"
        )
    raise DataError(
        f"text {source}: {len(texts)} columns hold text (columns are {listed(columns)}): name one"
        f" as FILE{SEPARATOR}COLUMN, for example {source}{SEPARATOR}{texts[0]}"
    )


def _require(source: str, columns: Mapping[str, bool], asked: str) -> None:
    if asked not in columns:
        raise DataError(
            f"text {source} has no column {asked!r}: columns are {listed(columns)}"
            f"{did_you_mean(asked, columns)}"
        )
    if not columns[asked]:
        raise DataError(f"text {source}: column {asked!r} holds no text; name another")


def listed(columns: Collection[str]) -> str:
    """The names of columns in a line; "none" where there are none."""
    return ", ".join(map(str, columns)) or "none"
