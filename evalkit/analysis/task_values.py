"""Values of task scores: intervals, paired differences, flips, Holm-adjusted verdicts.

A score that is a mean over items of 0 and 1 gets Wilson's and Tango's intervals and McNemar's
test; a mean of real values Student's; a corpus score (perplexity and its like) a bootstrap over
documents. p-values are adjusted over the tasks by Holm's method.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalkit.analysis.asked import Asked, asked_difference
from evalkit.analysis.bootstrap import Interval, bootstrap_interval
from evalkit.analysis.paired import PairedDifference, holm, mean_interval, paired_difference
from evalkit.analysis.stopping import Drawn
from evalkit.analysis.values import value_of
from evalkit.analysis.verdicts import Margin, judge, judge_task
from evalkit.records import Claim, Direction, Value, Word

Floats = NDArray[np.float64]
MEANS = ("mean", "nanmean")
# How a corpus score follows from the mean of its items' values over their weights.
FOLDS: dict[str, Callable[[Floats], Floats]] = {
    "perplexity": lambda mean: np.exp(-mean),
    "weighted_perplexity": lambda mean: np.exp(-mean),
    "bits_per_byte": lambda mean: -mean / math.log(2),
}
CONFIDENT = 1.959964  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class ItemScores:
    """One score of a task for one variant, item by item.

    `key` names it (arc_easy.acc_norm); `asked` says what was asked of the n items, `values` and
    `weights` float64[n] are aligned with them, `clusters` group items that belong together.
    `primary` marks the score that stands for its task; `notes` say what changed the measurement;
    `drawn` says how the items were drawn where they are not all, but those it took to decide.
    """

    task: str
    key: str
    statistic: str
    higher_is_better: bool
    primary: bool
    asked: Asked
    values: Floats
    weights: Floats
    clusters: NDArray[np.int32]
    noise: float = 0.0
    notes: tuple[str, ...] = ()
    drawn: Drawn | None = None

    @property
    def is_mean(self) -> bool:
        """Whether the score is a plain mean over items."""
        return self.statistic in MEANS

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Items that have a value."""
        return self.weights > 0


TaskScores = Mapping[str, ItemScores]


def task_values(
    baseline: TaskScores, variant: TaskScores, margin: Margin, is_baseline: bool
) -> dict[str, Value]:
    """Values of all scores of `variant` by key, TASK.flips for each task, and tasks_mean.

    A score whose items or prompts are not the baseline's is "not comparable", and so is then
    tasks_mean; the detail "reason" says what differs. The detail "notes" says what changed the
    measurement: truncation, another few-shot split, items left out.
    """
    found = _values(baseline, variant, margin, is_baseline)
    directions = {key: direction_of(scores) for key, scores in variant.items()}
    for key, direction in (directions | {"tasks_mean": "higher"}).items():
        if key in found:
            found[key] = dataclasses.replace(found[key], claim=Claim.ITEMS, direction=direction)
    noted = {key: scores.notes for key, scores in variant.items()}
    noted["tasks_mean"] = tuple(f"{o.task}: {note}" for o in _means(variant) for note in o.notes)
    for key, notes in noted.items():
        if notes and key in found:
            details = found[key].details | {"notes": list(notes)}
            found[key] = dataclasses.replace(found[key], details=details)
    return found


def direction_of(scores: ItemScores) -> Direction:
    """Which way the score is better."""
    return "higher" if scores.higher_is_better else "lower"


def _values(
    baseline: TaskScores, variant: TaskScores, margin: Margin, is_baseline: bool
) -> dict[str, Value]:
    if is_baseline:
        found = {key: _alone(scores, Word.BASELINE) for key, scores in variant.items()}
        return found | _mean_alone(variant, Word.BASELINE)
    reasons = {key: _reason(baseline, scores) for key, scores in variant.items()}
    differences = {
        key: paired_difference(*_aligned(baseline[key], scores))
        for key, scores in variant.items()
        if scores.is_mean and not reasons[key]
    }
    adjusted = _adjusted(variant, differences)
    found = {}
    for key, scores in variant.items():
        if reasons[key]:
            found[key] = _refused(_alone(scores, Word.NOT_COMPARABLE), reasons[key])
        elif key in differences:
            found[key] = _judged(scores, differences[key], margin, adjusted.get(key))
            if scores.primary and differences[key].is_binary:
                found[f"{scores.task}.flips"] = _flips(differences[key])
        else:
            found[key] = _corpus(baseline[key], scores, margin)
    unlike = [f"{one.task}: {reasons[one.key]}" for one in _means(variant) if reasons[one.key]]
    if any(one.key in baseline and reasons[one.key] for one in _means(variant)):
        mean = _mean_alone(variant, Word.NOT_COMPARABLE)
        return found | {key: _refused(value, "; ".join(unlike)) for key, value in mean.items()}
    return found | _mean(variant, differences, margin)


def _reason(baseline: TaskScores, scores: ItemScores) -> str:
    """Why a score cannot be paired with the baseline's; "" where it can."""
    if scores.key not in baseline:
        return "the baseline has none"
    return asked_difference(baseline[scores.key].asked, scores.asked)


def _refused(value: Value, reason: str) -> Value:
    return dataclasses.replace(value, details={**value.details, "reason": reason})


def _aligned(baseline: ItemScores, variant: ItemScores) -> tuple[Floats, Floats, NDArray[np.int32]]:
    both = baseline.measured & variant.measured
    return baseline.values[both], variant.values[both], variant.clusters[both]


def _adjusted(variant: TaskScores, differences: Mapping[str, PairedDifference]) -> dict[str, float]:
    """Holm's adjustment over the tasks, each standing by its primary score."""
    keys = [key for key in differences if variant[key].primary]
    p_values = holm([differences[key].p_value for key in keys]) if keys else ()
    return dict(zip(keys, p_values, strict=True))


def _alone(scores: ItemScores, verdict: Word) -> Value:
    """The score itself with its interval, without a difference."""
    used = scores.measured
    if scores.is_mean:
        interval = mean_interval(scores.values[used], scores.clusters[used])
    else:
        interval = bootstrap_interval(_fold(scores), _sums(scores), groups=np.arange(used.sum()))
    return value_of(interval, int(used.sum()), None, verdict, {})


def _judged(
    scores: ItemScores, paired: PairedDifference, margin: Margin, adjusted: float | None
) -> Value:
    used = scores.measured
    interval = mean_interval(scores.values[used], scores.clusters[used])
    p = paired.p_value if adjusted is None else adjusted
    verdict = judge_task(
        paired, margin.points, p, direction=direction_of(scores), noise_floor=scores.noise
    )
    details: dict[str, object] = {
        "p_value": paired.p_value,
        "mcnemar_p": paired.mcnemar_p,
        "adjusted_p": p,
        "noise_floor": scores.noise,
    }
    if verdict is Word.INCONCLUSIVE:
        details |= _more(paired, margin)
    return value_of(interval, paired.n, paired.interval, verdict, details)


def _more(paired: PairedDifference, margin: Margin) -> dict[str, object]:
    """Items that would decide, were the variant truly as good as the baseline; on top of n."""
    needed = paired.items_needed(margin.points) if margin.points > 0 else None
    return {"items_needed": max(1, needed - paired.n)} if needed else {}


def _flips(paired: PairedDifference) -> Value:
    lost, won = paired.right_to_wrong or 0, paired.wrong_to_right or 0
    return Value(
        value=float(lost + won),
        unit="items",
        n=paired.n,
        verdict=Word.NO_LOSS if lost + won == 0 else "changed",
        details={"right_to_wrong": lost, "wrong_to_right": won, "mcnemar_p": paired.mcnemar_p},
    )


def _fold(scores: ItemScores) -> Callable[[Floats], Floats]:
    fold = FOLDS[scores.statistic]
    return lambda totals: fold(totals[:, 0] / totals[:, 1])


def _sums(scores: ItemScores) -> Floats:
    used = scores.measured
    return np.column_stack([scores.values[used], scores.weights[used]])


def _corpus(baseline: ItemScores, variant: ItemScores, margin: Margin) -> Value:
    fold = FOLDS[variant.statistic]
    both = baseline.measured & variant.measured
    sums = np.column_stack([baseline.values[both], variant.values[both], variant.weights[both]])

    def difference(totals: Floats) -> Floats:
        return fold(totals[:, 1] / totals[:, 2]) - fold(totals[:, 0] / totals[:, 2])

    # Documents of a task are independent of each other: each is a group of its own.
    interval = bootstrap_interval(_fold(variant), _sums(variant), groups=np.arange(len(sums)))
    delta = bootstrap_interval(difference, sums, groups=np.arange(len(sums)))
    verdict = judge(
        delta,
        margin=margin.of(interval.estimate - delta.estimate),
        direction=direction_of(variant),
        noise_floor=variant.noise,
    )
    return value_of(interval, int(both.sum()), delta, verdict, {"noise_floor": variant.noise})


def _means(scores: TaskScores) -> list[ItemScores]:
    return [one for one in scores.values() if one.primary and one.is_mean and one.higher_is_better]


def _mean_alone(scores: TaskScores, verdict: Word) -> dict[str, Value]:
    """The plain mean over tasks of their primary scores."""
    parts = [mean_interval(one.values[one.measured]) for one in _means(scores)]
    if not parts:
        return {}
    n = sum(int(one.measured.sum()) for one in _means(scores))
    details = {"tasks": len(parts)}
    return {"tasks_mean": value_of(averaged(parts), n, None, verdict, details)}


def _mean(
    variant: TaskScores, differences: Mapping[str, PairedDifference], margin: Margin
) -> dict[str, Value]:
    means = [one for one in _means(variant) if one.key in differences]
    if not means or len(means) < len(_means(variant)):
        return {}
    paired = [differences[one.key] for one in means]
    delta = averaged([one.interval for one in paired])
    noise = max(one.noise for one in means)
    verdict = judge(delta, margin=margin.points, direction="higher", noise_floor=noise)
    value = _mean_alone(variant, Word.BASELINE)["tasks_mean"]
    details: dict[str, object] = {"tasks": len(means), "noise_floor": noise}
    if verdict is Word.INCONCLUSIVE:
        details |= _mean_more(delta, paired, margin)
    interval = Interval(value.value or 0.0, value.low or math.nan, value.high or math.nan)
    return {"tasks_mean": value_of(interval, value.n, delta, verdict, details)}


def _mean_more(
    delta: Interval, paired: list[PairedDifference], margin: Margin
) -> dict[str, object]:
    """Items on top, over all tasks, that would narrow the interval to the margin at 80 % power.

    Without a true difference, the half width h must fall to margin · 1.96 / (1.96 + 0.84); it
    falls with the root of the number of items.
    """
    half = (delta.high - delta.low) / 2
    if margin.points <= 0 or math.isnan(half):
        return {}
    n = sum(one.n for one in paired)
    needed = n * (half * (CONFIDENT + 0.841621) / (CONFIDENT * margin.points)) ** 2
    return {"items_needed": max(1, math.ceil(needed - n))}


def averaged(intervals: Sequence[Interval], weights: Sequence[float] = ()) -> Interval:
    """Mean of independent estimates; their half widths add as roots of squares on each side.

    Each counts the same where no `weights` are given.
    """
    shares = list(zip(intervals, weights or [1.0] * len(intervals), strict=True))
    total = sum(weight for _, weight in shares)
    estimate = sum(weight * one.estimate for one, weight in shares) / total
    below = math.sqrt(sum((w * (one.estimate - one.low)) ** 2 for one, w in shares)) / total
    above = math.sqrt(sum((w * (one.high - one.estimate)) ** 2 for one, w in shares)) / total
    return Interval(estimate, estimate - below, estimate + above)
