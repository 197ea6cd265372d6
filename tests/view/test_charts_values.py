"""The numbers behind the charts: dominance, the Pareto front, means by position, axis labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evalkit.analysis.summaries import TokenTable
from evalkit.view.charts.canvas import power
from evalkit.view.charts.comparison.position import by_position
from evalkit.view.charts.pareto import Point, Span, pareto_front, significantly_dominated
from evalkit.view.charts.variants import entries
from tests.view import charted

ENTRY = entries(charted.full())[1]


def point(gain: tuple[float, float, float], loss: tuple[float, float, float]) -> Point:
    return Point(ENTRY, Span(*gain), Span(*loss))


def test_is_dominated_only_where_no_reading_of_the_intervals_saves_it():
    good = point((100, 95, 105), (0.1, 0.0, 0.2))
    clear = point((80, 75, 85), (0.5, 0.3, 0.7))
    overlapping = point((80, 75, 85), (0.5, 0.1, 0.9))
    faster = point((110, 104, 115), (0.5, 0.3, 0.7))
    assert significantly_dominated(clear, [good, clear], True)
    assert not significantly_dominated(overlapping, [good], True)
    assert not significantly_dominated(faster, [good], True)
    assert not significantly_dominated(good, [good], True)


def test_is_never_dominated_without_an_interval():
    good = point((100, -math.inf, math.inf), (0.1, 0.0, 0.2))
    bad = point((80, 75, 85), (0.5, 0.3, 0.7))
    assert not significantly_dominated(bad, [good], True)
    assert not significantly_dominated(point((80, -math.inf, math.inf), (1, 1, 1)), [good], True)


def test_smaller_is_better_for_memory():
    small, large = point((4, 4, 4), (0.1, 0.1, 0.1)), point((8, 8, 8), (0.1, 0.1, 0.1))
    assert significantly_dominated(large, [small], False)
    assert not significantly_dominated(small, [large], False)


def test_the_front_goes_from_the_best_gain_to_the_least_loss():
    a, b, c = (point((g, g, g), (v, v, v)) for g, v in ((10, 3), (8, 1), (7, 2)))
    assert pareto_front([c, a, b], more_is_better=True) == [a, b]
    assert pareto_front([c, a, b], more_is_better=False) == [c, b]


def test_means_by_position_and_their_errors_over_windows():
    windows, tokens = 8, 24
    position = np.tile(np.arange(tokens), windows)
    window = np.repeat(np.arange(windows), tokens)
    values = position / 10 + (window % 2)
    table = TokenTable(
        {"scored": np.full(windows, tokens), "slice": np.zeros(windows, int)},
        lambda name: {"window": window, "position": position, "kl": values}[name],
    )
    curve = by_position(table, "kl", bins=4)
    bins = np.split(np.arange(tokens), [6, 12, 17])
    assert curve.positions == pytest.approx([b.mean() for b in bins])
    assert curve.means == pytest.approx([b.mean() / 10 + 0.5 for b in bins])
    # Window means differ by ±0.5, so their standard error is 0.5 · sqrt(8/7) / sqrt(8).
    assert curve.halves == pytest.approx(1.959964 * 0.5 / math.sqrt(7) * np.ones(4))


def test_a_single_window_or_position_has_a_mean_without_error():
    table = charted.token_table(0, 1, 1, 0.1)
    curve = by_position(table, "kl")
    assert len(curve.means) == 1 and np.isnan(curve.halves).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-7, "10⁻⁷"), (2e-5, "2·10⁻⁵"), (0.001, "0.001"), (0.2, "0.2"), (1, "1"), (1e4, "10⁴")],
)
def test_numbers_on_a_logarithmic_axis(value: float, text: str):
    assert power(value) == text
