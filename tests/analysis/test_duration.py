"""How long a part takes: counted, and learned from what was measured before."""

from __future__ import annotations

import pytest

from evalkit.analysis.duration import (
    Duration,
    Past,
    Rates,
    Sizes,
    expected,
    probe_cost,
    task_cost,
    text_cost,
    total,
)
from evalkit.records import Cost

SIZES = Sizes(body=1_000, hidden=10, vocabulary=50)
RATES = Rates(operations=1e6, bytes=1e6)


def past(kind: str, seconds: float, model: str, variant: str) -> Past:
    """A part that took `seconds`, of which its roofline is one."""
    return Past(Cost(kind, 1e6, 0.0, seconds), model, variant)


def test_a_text_is_read_once_and_its_logits_compared() -> None:
    variant = text_cost(SIZES, 100, 80, baseline=False, noise=0.5)
    assert variant.operations == 2 * 1_000 * 100 + 2 * (2 * 10 * 50 * 80)
    baseline = text_cost(SIZES, 100, 80, baseline=True, noise=0.5)
    # Half of the texts is scored again, as a variant scores them.
    assert baseline.operations == 1.5 * 2 * 1_000 * 100 + 2 * (2 * 10 * 50 * 80)


def test_generated_tokens_read_the_weights() -> None:
    none = task_cost(SIZES, read=100, scored=10, generated=0, weights=2_000)
    some = task_cost(SIZES, read=100, scored=10, generated=80, weights=2_000)
    assert some.bytes - none.bytes == 80 / 8 * 2_000
    assert some.operations > none.operations


def test_each_repetition_of_a_probe_counts() -> None:
    once, thrice = (probe_cost("speed", SIZES, 8, 4, n, 2_000) for n in (1, 3))
    assert (once.bytes, thrice.bytes) == (4 * 2_000, 3 * 4 * 2_000)
    assert thrice.operations == 3 * once.operations


def test_the_nearest_earlier_runs_count() -> None:
    cost = Cost("texts", 3e6, 0.0)
    runs = [
        past("texts", 2.0, "own", "int4"),
        past("texts", 5.0, "own", "fp16"),
        past("texts", 50.0, "other", "int4"),
        past("task", 70.0, "own", "int4"),
    ]
    same = expected(cost, RATES, runs, "own", "int4")
    assert (same.seconds, same.factor) == (pytest.approx(6.0), 1.2)
    assert same.source == "this variant's earlier runs here"
    model = expected(cost, RATES, runs, "own", "int8")
    # Between 2 and 5 lies 3.5, and the error is the spread of what was seen.
    assert (model.seconds, model.factor) == (pytest.approx(10.5), pytest.approx(3.5 / 2))
    assert model.source == "this model's earlier runs here"
    assert expected(cost, RATES, runs[2:], "own", "int8").seconds == pytest.approx(150.0)
    alone = expected(cost, RATES, [], "own", "int8")
    # A roofline is never reached: twice its seconds are usual.
    assert (alone.seconds, alone.factor, alone.source) == (6.0, 3.0, "the roofline alone")


def test_the_whole_is_as_sure_as_its_longest_parts() -> None:
    whole = total([Duration(99.0, 1.2, "the roofline alone"), Duration(1.0, 3.0, "x")])
    assert whole.seconds == 100
    assert 1.2 < whole.factor < 1.3
    assert total([]).seconds == 0


def test_a_part_far_smaller_tells_nothing_of_a_larger_one() -> None:
    # Two words of text took 4 s, nearly all of them before the first token was read.
    tiny = Past(Cost("texts", 1e3, 0.0, 4.0), "own", "fp16")
    found = expected(Cost("texts", 1e6, 0.0), RATES, [tiny], "own", "fp16")
    assert (found.seconds, found.source) == (2.0, "the roofline alone")
    assert expected(Cost("texts", 1e4, 0.0), RATES, [tiny], "own", "fp16").seconds == 40.0
