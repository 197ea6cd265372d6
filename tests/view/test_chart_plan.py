"""The chart of a plan: parts add up, lines end where memory ends."""

from __future__ import annotations

import dataclasses
import warnings

import pytest

from evalkit.analysis.roofline import decode_expected
from evalkit.errors import EvalkitError
from evalkit.view.charts import draw
from evalkit.view.charts.canvas import Chart, image
from evalkit.view.charts.plan.memory import batches, parts
from tests.view.plans import planned


def drawn() -> Chart:
    figure = draw("memory", planned())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.draw_without_rendering()
    return figure


def test_parts_of_a_row_are_its_total() -> None:
    for row in planned().rows:
        assert sum(parts(row).values()) == pytest.approx(row.memory.total)


def test_bars_end_at_the_total_and_the_line_is_the_cards_memory() -> None:
    made = planned()
    memory = drawn().axes[0]
    ends = [patch.get_x() + patch.get_width() for patch in memory.patches]
    for row in made.rows:
        assert any(end == pytest.approx(row.memory.total / 1e9) for end in ends)
    assert memory.lines[0].get_xdata()[0] == pytest.approx(made.card.memory / 1e9)


def test_speed_is_drawn_up_to_the_largest_batch_that_fits() -> None:
    made = planned()
    for row, line in zip(made.rows, drawn().axes[1].lines, strict=True):
        assert list(line.get_xdata()) == batches(row)
        assert batches(row)[-1] == row.max_batch
        expected = decode_expected(made.shape, row.scheme, made.card, row.max_batch, made.context)
        assert line.get_ydata()[-1] == expected


def test_refused_variants_are_named_and_the_figure_is_an_image() -> None:
    figure = drawn()
    assert "Not shown: int3@gptq" in figure.description
    assert image(figure, "svg").startswith(b"<?xml")


def test_nothing_to_draw_is_one_line() -> None:
    with pytest.raises(EvalkitError, match=r"^[^\n]*every variant was refused[^\n]*$"):
        draw("memory", dataclasses.replace(planned(), rows=()))
