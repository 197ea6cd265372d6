"""Tasks that stopped: the sequence's difference, Holm over tasks, what keeps no judgement."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evalkit.analysis.asked import Asked
from evalkit.analysis.betting import log_capital
from evalkit.analysis.compare import Measured, compare
from evalkit.analysis.stopped_tasks import alike, loss_of
from evalkit.analysis.stopping import Drawn
from evalkit.analysis.task_groups import ScoreGroup
from evalkit.analysis.task_values import ItemScores
from evalkit.analysis.verdicts import parse_margin
from evalkit.records import Comparison, Model, Run, Suite, Value, Variant

OF = 3000
MARGIN = parse_margin("1pp")
MODEL = Model("m", "id")


def _scores(task: str, values: np.ndarray, drawn: Drawn | None = None) -> ItemScores:
    numbers = np.arange(OF) if drawn is None else np.sort(drawn.order)
    words = tuple(map(str, numbers))
    asked = Asked({}, words, words, words, "whole" if drawn is None else "some")
    return ItemScores(
        task=task, key=f"{task}.acc", statistic="mean", higher_is_better=True, primary=True,
        asked=asked, values=values[numbers], weights=np.ones(len(numbers)),
        clusters=numbers.astype(np.int32), drawn=drawn,
    )  # fmt: skip


def _task(name: str, items: int, loss: float, seed: int = 0) -> tuple[ItemScores, ItemScores]:
    """A baseline that answered all items, and a variant that lost some of the first `items`."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(OF)[:items]
    base = (rng.random(OF) < 0.7).astype(float)
    values = np.where(rng.random(OF) < loss / 0.7, 0.0, base)
    return _scores(name, base), _scores(name, values, Drawn(order, OF, 1, "whole"))


def _compare(
    *tasks: tuple[ItemScores, ItemScores], groups: tuple[ScoreGroup, ...] = ()
) -> Comparison:
    sides = [
        Measured(
            Variant(name, "x", asked=name),
            (Run(name, MODEL, Variant(name, "x"), Suite("s"), "ok"),),
            tasks={t[i].key: t[i] for t in tasks},
        )
        for i, name in enumerate(("fp16", "int4"))
    ]
    sides[1] = dataclasses.replace(sides[1], groups=groups)
    return compare(MODEL, Suite("s"), sides, MARGIN)


def _value(found: Comparison, key: str) -> Value:
    return found.rows[1].metrics[key]


def test_no_loss_is_said_with_the_sequences_own_difference() -> None:
    base, variant = _task("a", 800, 0.0)
    found = _compare((base, variant))
    value = _value(found, "a.acc")
    sequence = loss_of(alike({"a.acc": base}, {"a.acc": variant})["a.acc"], variant).difference()
    assert (value.delta, value.delta_low, value.delta_high) == (
        sequence.estimate, sequence.low, sequence.high,
    )  # fmt: skip
    assert value.verdict == "no loss" == found.rows[1].verdict.word
    assert value.details["decided"] == {"items": 800, "of": OF, "valid": "at every look"}
    ordinary = value.details["ordinary"]
    assert ordinary["valid"] == "not under stopping" and value.delta_low < ordinary["low"]
    assert "adjusted_p" not in value.details and "items_needed" not in value.details
    assert any(
        "a: no loss, decided after 800 of 3,000 items, valid at every look" in note
        for note in found.rows[1].notes
    )


def test_a_loss_that_only_excludes_zero_stays_open() -> None:
    found = _compare(_task("a", 2500, 0.01))
    value = _value(found, "a.acc")
    assert value.delta_high is not None and value.delta_high < 0
    assert value.verdict == "inconclusive" and "decided" not in value.details
    assert "a: undecided after 2,500 of 3,000 items" in str(found.rows[1].notes)
    assert _value(_compare(_task("a", 600, 0.08)), "a.acc").verdict == "worse"


def test_several_tasks_are_adjusted_and_their_mean_is_bounded_together() -> None:
    # Decided alone, as soon as it can be; with others at the same look not yet.
    base, variant = _task("a", 800, 0.0)
    loss = loss_of(alike({"a.acc": base}, {"a.acc": variant})["a.acc"], variant)
    items = int((log_capital(loss.draws.mirrored(), -0.01) > np.log(40)).argmax()) + 2
    assert _value(_compare(_task("a", items, 0.0)), "a.acc").verdict == "no loss"
    both = _compare(_task("a", items, 0.0), _task("b", 30, 0.1, seed=1))
    assert _value(both, "a.acc").verdict == "inconclusive"
    mean = _value(both, "tasks_mean")
    assert mean.delta_low is not None and "decided" not in mean.details
    sure = _value(_compare(_task("a", 700, 0.0), _task("b", 700, 0.0, seed=1)), "tasks_mean")
    assert sure.verdict == "no loss"
    assert sure.details["decided"] == {"items": 1400, "of": 6000, "valid": "at every look"}


def test_items_are_bet_on_in_the_order_they_were_drawn() -> None:
    order = np.array([2000, 5, 1000])
    base, variant = np.ones(OF), np.ones(OF)
    variant[2000] = 0
    drawn = _scores("a", variant, Drawn(order, OF, 1, "whole"))
    some = alike({"a.acc": _scores("a", base)}, {"a.acc": drawn})["a.acc"]
    assert some.asked.documents == ("5", "1000", "2000")
    assert loss_of(some, drawn).draws.totals.tolist() == [1.0, 0.0, 0.0]


def test_what_was_asked_otherwise_is_not_comparable() -> None:
    base, variant = _task("a", 100, 0.0)
    assert variant.drawn is not None
    other = dataclasses.replace(variant, drawn=dataclasses.replace(variant.drawn, whole="other"))
    found = _compare((base, other))
    assert _value(found, "a.acc").verdict == "not comparable"
    assert _value(found, "tasks_mean").verdict == "not comparable"


@pytest.mark.parametrize("by_items", [True, False])
def test_the_mean_of_a_group_has_no_judgement_of_its_own(by_items: bool) -> None:
    tasks = _task("a", 700, 0.0), _task("b", 700, 0.0, seed=1)
    group = ScoreGroup("both.acc", ("a.acc", "b.acc"), by_items)
    value = _value(_compare(*tasks, groups=(group,)), "both.acc")
    assert value.verdict == "inconclusive" and value.delta_low is None
    assert value.details["ordinary"]["valid"] == "not under stopping"
