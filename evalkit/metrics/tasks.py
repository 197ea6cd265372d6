"""Task scores: lm-eval makes them (evalkit/tasks); here stands how they are shown and judged."""

from __future__ import annotations

from evalkit.analysis.gate import Limit
from evalkit.records import Column, Row

SPECS = ()
COLUMNS = (
    Column("tasks_mean", "tasks, paired", "points", measured_on="tasks", place=80, importance=20),
)


def _shares(row: Row) -> list[str]:
    """The scores that the row's verdict rests on: shares of items, not perplexities."""
    return [
        name
        for name in row.verdict.judged
        if "." in name
        and not name.endswith(("perplexity", "bits_per_byte"))
        and name in row.metrics
        and row.metrics[name].value is not None
    ]


LIMITS = (
    Limit(
        "max_task_loss", _shares, "1pp", "Points that any task may lose.",
        units=("pp", "%"), judged="loss",
    ),
)  # fmt: skip
