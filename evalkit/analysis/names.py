"""What rows are called: short names that differ, where their full forms are long and alike."""

from __future__ import annotations

from collections.abc import Sequence

from evalkit.paths import called, called_words
from evalkit.records import Row, Variant

# The words asked for name a row in a sentence up to this length; beyond it the row's label does.
LONGEST_ASKED = 24
# Folders of a path that are looked at to tell two files of one name apart.
_DEEPEST = 6


def distinct_labels(rows: Sequence[tuple[Variant, str]]) -> list[str]:
    """The label of each row; equal ones name more of the paths in which their variants differ."""
    found = [label for _, label in rows]
    for parts in range(2, _DEEPEST):
        repeated = {label for label in found if found.count(label) > 1}
        if not repeated:
            break
        found = [
            _with_folders(variant, label, parts) if now in repeated else now
            for now, (variant, label) in zip(found, rows, strict=True)
        ]
    return found


def name_in_words(row: Row) -> str:
    """What a sentence calls a row: the words asked for where they are few, else its label."""
    asked = row.variant.label
    if called_words(asked) == asked and len(asked) <= LONGEST_ASKED:
        return asked
    return row.label or called_words(asked)


def _with_folders(variant: Variant, label: str, parts: int) -> str:
    """`label` with the last `parts` of each path of `variant` for the last one."""
    for value in (variant.checkpoint, *(value for _, value in variant.options)):
        if isinstance(value, str) and called(value) != value:
            label = label.replace(called(value), called(value, parts))
    return label
