"""The table of a comparison in terminals of every width, as a person reads it.

`tables/*.txt` are what the terminal shows. After an intended change they are written anew by
`EVALKIT_RENEW=1 pytest tests/view/test_table_widths.py`, and read before they are committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from comparisons import FP16, INT4, INT8, comparison, quality, row, standard_rows
from rich.cells import cell_len

from evalkit.records import Comparison, Row, Variant, Verdict
from evalkit.view import render

TABLES = Path(__file__).parent / "tables"
WIDTHS = (60, 80, 100, 140, None)


def _nine() -> tuple[Row, ...]:
    words = (
        Verdict("no loss"),
        Verdict("worse"),
        Verdict("worse", is_beyond_margin=True),
        Verdict("inconclusive", items_needed=12_400),
        Verdict("inconclusive"),
        Verdict("better"),
    )
    more = [
        row(
            Variant("int4", "gptq", (("group_size", 2 ** (4 + place)),), asked=f"int4 {place}"),
            2.0 + place / 3,
            verdict=verdict,
            quality=quality(False, 0.01 * 3**place, -0.002 * place, 0.006),
        )
        for place, verdict in enumerate(words)
    ]
    return (*standard_rows(), *more)


def _unfinished() -> tuple[Row, ...]:
    size_only = {"weight_bytes": row(INT4, 3.4).metrics["weight_bytes"]}
    why = "layer model.layers.0.mlp.down_proj is 172 wide, not a multiple of 128: use int8"
    lost = Verdict("not measured")
    return (
        row(FP16),
        row(INT8, 1.8, status="failed", message=why, metrics={}, verdict=lost),
        row(INT4, 3.4, status="interrupted", metrics=size_only, verdict=lost),
        row(Variant("int4", "awq"), 3.3, status="out_of_memory", metrics={}, verdict=lost),
    )


SHOWN: dict[str, Comparison] = {
    "one": comparison(row(FP16), sentence="Only the baseline fp16 was measured: add a variant."),
    "three": comparison(),
    "nine": comparison(*_nine()),
    "unfinished": comparison(*_unfinished()),
}


def _drawn(one: Comparison, width: int | None) -> str:
    """The table alone: what stands between the heading and the sentence."""
    table = render(one, "table", width).split("\n\n")[1]
    return "\n".join(line.rstrip() for line in table.splitlines())


@pytest.mark.parametrize("name", list(SHOWN))
def test_the_table_is_the_one_that_was_read(name: str) -> None:
    found = "\n\n".join(
        f"--- {f'{width} columns' if width else 'piped'}\n\n{_drawn(SHOWN[name], width)}"
        for width in WIDTHS
    )
    path = TABLES / f"{name}.txt"
    if "EVALKIT_RENEW" in os.environ:
        path.write_text(f"{found}\n", encoding="utf-8")
    assert f"{found}\n" == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("name", ["three", "nine"])
def test_verdict_and_quality_are_in_the_table_at_every_width(name: str, width: int) -> None:
    lines = _drawn(SHOWN[name], width).splitlines()
    assert all(cell_len(line) <= width for line in lines)
    titles = f"{lines[0]} {lines[1]}"
    assert "verdict" in titles
    assert "perplexity" in titles
    left_out = [line for line in lines if "not shown in" in line]
    assert (" tasks" in titles) or "tasks" in " ".join(lines[lines.index(left_out[0]) :])


def test_at_80_columns_size_perplexity_tasks_and_verdict_stay() -> None:
    titles = _drawn(SHOWN["three"], 80).splitlines()[0].split()
    assert [word for word in ("size", "perplexity", "tasks,", "verdict") if word in titles] == [
        "size", "perplexity", "tasks,", "verdict",
    ]  # fmt: skip
