"""Group scores: lm-eval's means, paired like a task, counted once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evalkit.analysis.asked import Asked
from evalkit.analysis.paired import mean_interval, paired_difference
from evalkit.analysis.task_groups import ScoreGroup, group_values
from evalkit.analysis.task_values import ItemScores, task_values
from evalkit.analysis.verdicts import parse_margin
from evalkit.records import Value

MARGIN = parse_margin("1pp")
MEMBERS = ("a.acc", "b.acc")
BY_ITEMS, PLAIN = ScoreGroup("g.acc", MEMBERS, True), ScoreGroup("p.acc", MEMBERS, False)
BASE = {"a": [1.0] * 30 + [0.0] * 10, "b": [1.0] * 100 + [0.0] * 200}
OTHER = {"a": [1.0] * 20 + [0.0] * 20, "b": [1.0] * 110 + [0.0] * 190}


def scores(right: dict[str, list[float]], prompt: str = "p") -> dict[str, ItemScores]:
    found = {}
    for task, values in right.items():
        names = tuple(map(str, range(len(values))))
        asked = Asked({"shots": "0"}, names, tuple(prompt + name for name in names), names)
        found[f"{task}.acc"] = ItemScores(
            task, f"{task}.acc", "mean", True, True, asked,
            np.array(values), np.ones(len(values)), np.arange(len(values), dtype=np.int32),
        )  # fmt: skip
    return found


def values(
    base: dict[str, ItemScores], other: dict[str, ItemScores], is_baseline: bool = False
) -> dict[str, Value]:
    known = task_values(base, other, MARGIN, is_baseline)
    groups = group_values([BY_ITEMS, PLAIN], base, other, known, MARGIN, is_baseline)
    return known | groups


def test_by_items_it_is_the_mean_over_all_items() -> None:
    found = values(scores(BASE), scores(OTHER))["g.acc"]
    everything = [np.array([*one["a"], *one["b"]]) for one in (BASE, OTHER)]
    alone = mean_interval(everything[1])
    paired = paired_difference(*everything)
    assert (found.value, found.n) == (pytest.approx(130 / 340), 340)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))
    bounds = (paired.interval.estimate, paired.interval.low, paired.interval.high)
    assert (found.delta, found.delta_low, found.delta_high) == pytest.approx(bounds)
    assert found.verdict == "inconclusive"
    assert found.details["items_needed"] > 0


def test_without_weights_each_task_counts_the_same() -> None:
    known = values(scores(BASE), scores(OTHER))
    found = known["p.acc"]
    assert found.value == pytest.approx((20 / 40 + 110 / 300) / 2)
    assert found.delta == pytest.approx((-10 / 40 + 10 / 300) / 2)
    halves = [known[key].delta - known[key].delta_low for key in MEMBERS]  # type: ignore[operator]
    assert found.delta - found.delta_low == pytest.approx(np.hypot(*halves) / 2)  # type: ignore[operator]
    assert found.verdict == "worse"


def test_a_group_is_counted_once() -> None:
    known = task_values(scores(BASE), scores(OTHER), MARGIN, False)
    with_groups = values(scores(BASE), scores(OTHER))
    assert {name: with_groups[name] for name in known} == known
    assert set(with_groups) - set(known) == {"g.acc", "p.acc"}
    assert known["tasks_mean"].details["tasks"] == 2


def test_the_baseline_and_what_it_cannot_be_compared_with() -> None:
    first = values(scores(BASE), scores(BASE), is_baseline=True)
    assert first["g.acc"].verdict == first["p.acc"].verdict == "baseline"
    assert first["g.acc"].value == pytest.approx(130 / 340)
    assert first["g.acc"].delta is None
    other = scores(BASE) | {"b.acc": scores(OTHER, prompt="q")["b.acc"]}
    for key in ("g.acc", "p.acc"):
        refused = values(scores(BASE), other)[key]
        assert (refused.verdict, refused.delta) == ("not comparable", None)
        assert "prompts differ" in refused.details["reason"]
    assert "g.acc" not in values(scores(BASE), {"a.acc": scores(OTHER)["a.acc"]})
    lone = values({"a.acc": scores(BASE)["a.acc"]}, scores(OTHER))
    assert lone["g.acc"].verdict == "not comparable"


def test_perplexities_are_averaged_by_items() -> None:
    def pages(shift: float) -> dict[str, ItemScores]:
        random = np.random.default_rng(1)
        return {
            key: dataclasses.replace(
                one, statistic="perplexity", higher_is_better=False,
                values=-2.0 + 0.1 * random.standard_normal(len(one.values)) - shift,
            )
            for key, one in scores(BASE).items()
        }  # fmt: skip

    known = values(pages(0), pages(0.5))
    wanted = np.average([known[key].value or 0 for key in MEMBERS], weights=[40, 300])
    assert known["g.acc"].value == pytest.approx(wanted)
    assert known["g.acc"].verdict == "worse"
