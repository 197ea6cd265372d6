"""Which rows of a prefix tree run together: as many as the budget admits, of like length."""

from __future__ import annotations

from collections.abc import Sequence

from evalkit.inference.budget import Budget
from evalkit.inference.packed_lines import Line
from evalkit.inference.prefix_cache import KeyValues
from evalkit.inference.prefix_tree import Row
from evalkit.scoring.halving import halves

# Rows shorter than this part of the batch's longest row wait for a batch of their own length, once
# the batch has reached this part of the budget: padding costs less than many small batches.
_SHORTEST_ROW = 0.6
_SMALL_BATCH = 1 / 8


Batch = Sequence[Row | Line]


def row_batches(
    rows: Sequence[Row], parent: KeyValues | None, budget: Budget, longest: int, reserve: int
) -> list[list[Row]]:
    """Rows by falling length, each with room for `reserve` tokens that are to come.

    No batch spans more slots than the `longest` sequence has tokens: models that look at the
    number of slots (longrope, the context check of Phi-3 Small) then see nothing unusual.
    """
    room = _room(budget, parent)

    def past(row: Row) -> int:
        return parent.lengths[row.parent] if parent else 0

    def admits(batch: list[Row], row: Row) -> bool:
        length = len(batch[0].node.tokens)
        slots = length + max(past(member) for member in [*batch, row])
        tokens = (len(batch) + 1) * length
        alike = len(row.node.tokens) >= _SHORTEST_ROW * length
        return (
            (alike or tokens <= _SMALL_BATCH * budget.batch_tokens)
            and tokens <= budget.batch_tokens
            and (len(batch) + 1) * (slots + reserve) <= room
            and slots <= longest
        )

    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: (-len(row.node.tokens), -past(row))):
        if batches and admits(batches[-1], row):
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def line_batches(
    lines: Sequence[Line], parent: KeyValues | None, budget: Budget
) -> list[list[Line]]:
    """Lines by falling length."""
    if not lines:
        return []
    ordered = sorted(lines, key=lambda line: -line.length)
    length = ordered[0].length
    slots = length + (max(parent.lengths[line.parent] for line in lines) if parent else 0)
    most = max(1, min(budget.batch_tokens // length, _room(budget, parent) // slots))
    return [ordered[low : low + most] for low in range(0, len(ordered), most)]


def smaller(batch: Batch) -> list[Batch]:
    """Batches of less memory in the place of `batch`, the first to run last.

    It is halved; of a single line the trees are halved, and a single tree is run level by level.
    """
    if len(batch) > 1:
        return [*halves([*batch])]
    (line,) = batch
    assert isinstance(line, Line)
    return [[half] for half in line.halves()] or [[Row(line.nodes[0], line.parent)]]


def _room(budget: Budget, parent: KeyValues | None) -> int:
    """Slots of keys and values that a batch behind `parent` may hold."""
    held = parent.held if budget.all_levels and parent is not None else 0
    return budget.cache_tokens - held
