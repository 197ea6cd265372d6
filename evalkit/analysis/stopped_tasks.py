"""Values of tasks that stopped when they were decided: the sequences' own, valid at every look.

The ordinary interval of a paired difference holds for one look at a number of items fixed
beforehand. Where the items are as many as it took, it is too sure; it stays beside the sequence's,
marked as not valid under stopping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.paired import paired_difference
from evalkit.analysis.stopping import (
    Decision,
    Drawn,
    Loss,
    decide,
    mean_difference,
    paired_loss,
    shared_confidence,
)
from evalkit.analysis.task_groups import ScoreGroup
from evalkit.analysis.task_values import ItemScores, TaskScores
from evalkit.analysis.values import finite
from evalkit.analysis.verdicts import Margin
from evalkit.records import Value, Word

VALID = "at every look"
NOT_VALID = "not under stopping"
_WORDS = {
    Decision.SMALLER: Word.NO_LOSS,
    Decision.LARGER: Word.WORSE,
    Decision.OPEN: Word.INCONCLUSIVE,
}
# What the ordinary judgement says of its p-values and of further items.
_ORDINARY = ("p_value", "mcnemar_p", "adjusted_p", "items_needed")


def alike(baseline: TaskScores, variant: TaskScores) -> TaskScores:
    """The baseline's scores, of a task that `variant` stopped over the items it was asked."""
    found = dict(baseline)
    for key, scores in variant.items():
        if scores.drawn is not None and key in baseline:
            found[key] = _restricted(baseline[key], scores, scores.drawn)
    return found


def stopped_values(
    values: Mapping[str, Value],
    baseline: TaskScores,
    variant: TaskScores,
    groups: Sequence[ScoreGroup],
    margin: Margin,
) -> dict[str, Value]:
    """The values that change where tasks of `variant` stopped when they were decided, by key.

    `values` are the ordinary ones, of the same items of `baseline` and `variant`. The scores that
    stand for tasks are decided together; every other bounded score by itself; what has no sequence
    (a score without bounds, a mean over a group) has no verdict.
    """
    drawn = {
        key: scores
        for key, scores in variant.items()
        if scores.drawn is not None and values[key].verdict != Word.NOT_COMPARABLE
    }
    losses = {k: loss_of(baseline[k], s) for k, s in drawn.items() if _bounded(baseline[k], s)}
    judged = [key for key in losses if drawn[key].primary]
    together = decide([losses[key].p_values(margin.points) for key in judged]) if judged else ()
    decisions = dict(zip(judged, together, strict=True))
    found = {}
    for key, scores in drawn.items():
        if key not in losses:
            found[key] = _without(values[key])
            continue
        pair = losses[key].p_values(margin.points)
        decision = decisions.get(key) or decide([pair])[0]
        found[key] = _stopped(values[key], losses[key], decision, pair, scores)
    unjudged = [g.key for g in groups if g.key in values and drawn.keys() & set(g.members)]
    found |= {key: _without(values[key]) for key in unjudged}
    if drawn and "tasks_mean" in values and values["tasks_mean"].delta is not None:
        found["tasks_mean"] = _mean(values["tasks_mean"], baseline, variant, losses, margin)
    return found


def stopped_notes(values: Mapping[str, Value], variant: TaskScores) -> list[str]:
    """A line for each task that could stop: what was decided after how many items."""
    return [
        f"{scores.task}: {_in_words(values[key], scores.drawn)}"
        for key, scores in variant.items()
        if scores.drawn is not None and scores.primary and "ordinary" in values[key].details
    ]


def loss_of(baseline: ItemScores, variant: ItemScores) -> Loss:
    """The loss of `variant` over the items that both have values of, in the order drawn."""
    assert variant.drawn is not None
    # Values lie in the order of the items' numbers.
    drawn = np.searchsorted(np.sort(variant.drawn.order), variant.drawn.order)
    drawn = drawn[(baseline.measured & variant.measured)[drawn]]
    return paired_loss(
        baseline.values[drawn],
        variant.values[drawn],
        variant.clusters[drawn].astype(np.int64),
        largest=variant.drawn.largest,
        higher_is_better=variant.higher_is_better,
    )


def _restricted(baseline: ItemScores, variant: ItemScores, drawn: Drawn) -> ItemScores:
    """The baseline's score over the items drawn; as it is where it was not asked the same."""
    asked = baseline.asked
    if asked.requests != drawn.whole or len(baseline.values) != drawn.of:
        return baseline
    places = np.sort(drawn.order)
    return dataclasses.replace(
        baseline,
        asked=asked.only(map(int, places), variant.asked.requests),
        values=baseline.values[places],
        weights=baseline.weights[places],
        clusters=baseline.clusters[places],
    )


def _bounded(*sides: ItemScores) -> bool:
    values = np.concatenate([one.values[one.measured] for one in sides])
    return all(one.is_mean for one in sides) and bool(((values >= 0) & (values <= 1)).all())


def _stopped(
    value: Value, loss: Loss, decision: Decision, pair: tuple[float, float], scores: ItemScores
) -> Value:
    assert scores.drawn is not None
    found = _with_bounds(value, loss.difference(), _WORDS[decision])
    p_values = {"loss_at_least_margin": pair[0], "loss_at_most_margin": pair[1]}
    details = found.details | {"anytime_p": p_values}
    if decision is not Decision.OPEN:
        details |= _decided(len(scores.drawn.order), scores.drawn.of)
    return dataclasses.replace(found, details=details)


def _decided(items: int, of: int) -> dict[str, object]:
    return {"decided": {"items": items, "of": of, "valid": VALID}}


def _with_bounds(value: Value, interval: Interval, verdict: Word) -> Value:
    """The value with the sequence's difference, and the ordinary one among its details."""
    ordinary = {
        "delta": value.delta, "low": value.delta_low, "high": value.delta_high, "valid": NOT_VALID,
    }  # fmt: skip
    details = {name: one for name, one in value.details.items() if name not in _ORDINARY}
    return dataclasses.replace(
        value,
        delta=finite(interval.estimate),
        delta_low=finite(interval.low),
        delta_high=finite(interval.high),
        verdict=verdict,
        details=details | {"ordinary": ordinary},
    )


def _without(value: Value) -> Value:
    """The value without a judgement, which an ordinary interval cannot give under stopping."""
    nothing = Interval(np.nan if value.delta is None else value.delta, np.nan, np.nan)
    return _with_bounds(value, nothing, Word.INCONCLUSIVE)


def _mean(
    value: Value,
    baseline: TaskScores,
    variant: TaskScores,
    losses: Mapping[str, Loss],
    margin: Margin,
) -> Value:
    """The mean over tasks, by bounds that hold for all of them together."""
    tasks = [one for one in variant.values() if one.primary and one.is_mean]
    tasks = [one for one in tasks if one.higher_is_better]
    confidence = shared_confidence(len(tasks))
    parts = [_difference(baseline[one.key], one, losses, confidence) for one in tasks]
    mean = mean_difference(parts)
    verdict = Word.INCONCLUSIVE
    if mean.low >= -margin.points:
        verdict = Word.NO_LOSS
    elif mean.high <= -margin.points:
        verdict = Word.WORSE
    found = _with_bounds(value, mean, verdict)
    if verdict is Word.INCONCLUSIVE:
        return found
    sizes = [(len(one.values), one.drawn.of if one.drawn else len(one.values)) for one in tasks]
    items, of = (sum(side) for side in zip(*sizes, strict=True))
    return dataclasses.replace(found, details=found.details | _decided(items, of))


def _difference(
    baseline: ItemScores, variant: ItemScores, losses: Mapping[str, Loss], confidence: float
) -> Interval:
    """The sequence of a task that could stop; of one asked whole its ordinary interval holds."""
    if variant.key in losses:
        return losses[variant.key].difference(confidence)
    both = baseline.measured & variant.measured
    return paired_difference(
        baseline.values[both], variant.values[both], variant.clusters[both], confidence
    ).interval


def _in_words(value: Value, drawn: Drawn) -> str:
    decided = value.details.get("decided")
    beside = "the ordinary interval is not valid under stopping"
    if decided is None:
        return f"undecided after {len(drawn.order):,} of {drawn.of:,} items; {beside}"
    word = "no loss" if value.verdict == Word.NO_LOSS else "worse by more than the margin"
    return (
        f"{word}, decided after {decided['items']:,} of {decided['of']:,} items, valid {VALID};"
        f" {beside}"
    )
