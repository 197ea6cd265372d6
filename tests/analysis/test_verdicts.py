"""Words: the rules one by one, and how often they are wrong when nothing differs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.paired import PairedDifference, holm, paired_difference
from evalkit.analysis.verdicts import Margin, judge, judge_task, parse_margin
from evalkit.errors import EvalkitError, UsageError
from evalkit.records import Word


def of(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high)


def test_the_text_forms() -> None:
    assert [str(v) for v in Word] == [
        "better",
        "worse",
        "no loss",
        "inconclusive",
        "changed",
        "not comparable",
        "not measured",
        "not asked for",
        "baseline",
    ]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.2, 0.5, "better"),
        (-0.5, 0.5, "no loss"),
        (-0.5, -0.1, "no loss"),  # certain, but within the margin
        (-1.0, 0.5, "no loss"),  # exactly at the margin
        (-1.5, -0.5, "worse"),  # certain, perhaps beyond the margin
        (-3.0, -2.0, "worse"),
        (-1.5, 0.5, "inconclusive"),
        (-9.0, 9.0, "inconclusive"),
        (0.0, 0.0, "no loss"),
    ],
)
def test_the_rules_where_higher_is_better(low: float, high: float, verdict: str) -> None:
    assert judge(of(low, high), margin=1, direction="higher") == verdict
    assert judge(of(-high, -low), margin=1, direction="lower") == verdict


@pytest.mark.parametrize(
    ("low", "high", "margin", "verdict"),
    [
        (0.1, 0.15, 1, "no loss"),
        (0.1, 0.3, 1, "no loss"),  # reaches into the noise
        (0.21, 0.3, 1, "better"),
        (-1.5, -0.1, 1, "inconclusive"),
        (-1.5, -0.21, 1, "worse"),
        (-0.2, -0.1, 0.05, "no loss"),  # the margin is below the noise
        (-0.25, -0.21, 0.05, "worse"),
    ],
)
def test_nothing_within_the_noise_floor_is_better_or_worse(
    low: float, high: float, margin: float, verdict: str
) -> None:
    assert judge(of(low, high), margin=margin, direction="higher", noise_floor=0.2) == verdict


def test_what_is_unknown_is_said_to_be() -> None:
    nan = math.nan
    assert judge(Interval(nan, nan, nan), margin=1, direction="lower") is Word.NOT_MEASURED
    assert judge(Interval(0.1, nan, nan), margin=1, direction="lower") is Word.INCONCLUSIVE


def same_variant(rng: np.random.Generator, clusters: int | None) -> PairedDifference:
    """A task of 200 items on which two variants are equally good."""
    draw = rng.random(200)
    groups = None if clusters is None else np.repeat(np.arange(clusters), 200 // clusters)
    if groups is not None and clusters is not None:
        draw = np.where(rng.random(200) < 0.3, rng.random(clusters)[groups], draw)
    return paired_difference(np.where(draw > 0.92, 0, 1), np.where(draw < 0.08, 0, 1), groups)


def test_without_a_true_difference_a_verdict_is_rare() -> None:
    rng = np.random.default_rng(0)
    decided = 0
    for _ in range(1000):
        paired = same_variant(rng, clusters=None)
        verdict = judge_task(paired, 0.01, paired.p_value)
        decided += verdict in (Word.BETTER, Word.WORSE)
    assert 0 < decided <= 50


@pytest.mark.parametrize("clusters", [None, 40])
def test_over_several_tasks_a_single_false_verdict_is_rare(clusters: int | None) -> None:
    rng = np.random.default_rng(1)
    families = alone = 0
    for _ in range(1000):
        tasks = [same_variant(rng, clusters) for _ in range(4)]
        adjusted = holm([task.p_value for task in tasks])
        verdicts = {judge_task(task, 0.01, p) for task, p in zip(tasks, adjusted, strict=True)}
        families += bool(verdicts & {Word.BETTER, Word.WORSE})
        alone += any(task.p_value < 0.05 for task in tasks)
    assert 0 < families <= 50
    assert alone > 80  # without the adjustment it would not be


def test_a_real_loss_is_called_worse_and_a_real_gain_better() -> None:
    baseline = np.arange(500) < 350
    loss = paired_difference(baseline, np.arange(500) < 320)
    gain = paired_difference(baseline, np.arange(500) < 380)
    assert judge_task(loss, 0.01, loss.p_value) is Word.WORSE
    assert judge_task(gain, 0.01, gain.p_value) is Word.BETTER
    assert judge_task(gain, 0.01, gain.p_value, direction="lower") is Word.WORSE


def test_without_a_significant_p_the_verdict_is_weaker() -> None:
    baseline = np.arange(500) < 350
    loss = paired_difference(baseline, np.arange(500) < 320)
    gain = paired_difference(baseline, np.arange(500) < 380)
    assert judge_task(loss, 0.01, 0.2) is Word.INCONCLUSIVE
    assert judge_task(gain, 0.01, 0.2) is Word.NO_LOSS
    assert judge_task(loss, 0.5, 0.2) is Word.NO_LOSS
    assert judge_task(loss, 0.01, 0.001, noise_floor=0.2) is Word.NO_LOSS


@pytest.mark.parametrize(
    ("words", "value", "text"),
    [
        ("1pp", 0.01, "1pp"),
        ("1%", 0.01, "1%"),
        ("0.5 PP", 0.005, "0.5pp"),
        (" 2 % ", 0.02, "2%"),
        (".25pp", 0.0025, "0.25pp"),
        ("0.01", 0.01, "0.01"),
        ("0", 0.0, "0"),
        ("1e-3", 0.001, "0.001"),
        ("99pp", 0.99, "99pp"),
    ],
)
def test_margins_are_read(words: str, value: float, text: str) -> None:
    margin = parse_margin(words)
    assert margin.text == text
    assert margin.value == pytest.approx(value)
    assert parse_margin(margin.text) == margin


@pytest.mark.parametrize("words", ["1pp", "1%", "0.01"])
def test_one_margin_serves_shares_and_perplexity(words: str) -> None:
    margin = parse_margin(words)
    assert margin.points == pytest.approx(0.01)
    assert margin.of(8.0) == pytest.approx(0.08)


@pytest.mark.parametrize("words", ["", "pp", "one", "-1pp", "nan", "inf", "1 pc", "100%", "1pp2"])
def test_margins_that_are_none(words: str) -> None:
    with pytest.raises(UsageError, match="for example 1pp or 1%"):
        parse_margin(words)


@pytest.mark.parametrize("words", ["1", "0.5", "5"])
def test_a_number_without_a_unit_may_not_mean_points(words: str) -> None:
    with pytest.raises(UsageError, match=f"write {words}pp"):
        parse_margin(words)


def test_bad_input_is_one_line() -> None:
    with pytest.raises(EvalkitError, match="must be 0 or more"):
        judge(of(0, 1), margin=-1, direction="lower")
    with pytest.raises(EvalkitError, match="must be 0 or more"):
        judge(of(0, 1), margin=Margin(0.1, "10pp").points, direction="lower", noise_floor=math.nan)
    with pytest.raises(EvalkitError, match="allowed are lower, higher"):
        judge(of(0, 1), margin=1, direction="up")  # type: ignore[arg-type]
    paired = paired_difference([1, 0], [1, 1])
    with pytest.raises(EvalkitError, match="adjusted p 2"):
        judge_task(paired, 0.01, 2)
