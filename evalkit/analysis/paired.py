"""Task scores of two variants on the same items: is one of them worse, and by how much?

Both variants answer the same items, so only the items on which they differ carry information. The
paired comparison uses exactly those; the unpaired one of two separate runs needs many times the
items for the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, stdtr

from evalkit.analysis.blocks import FloatArray
from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.power import items_needed
from evalkit.analysis.spread import (
    Spread,
    critical_value,
    spread_of,
    student_bounds,
    tango_bounds,
    unbiased_error,
)
from evalkit.errors import EvalkitError


@dataclass(frozen=True)
class PairedDifference:
    """The scores of a variant against the baseline's, item by item.

    All scores are in the unit of the items (0 to 1 for accuracy) and every difference is variant
    minus baseline. Flips and McNemar's p exist only where every score is 0 or 1, and are None
    elsewhere.

    Attributes:
        n: number of items.
        standard_error: of `delta`: sqrt(mean(d²) - delta²) / sqrt(n), for accuracies the same as
            sqrt(share of flips - delta²) / sqrt(n); cluster-robust where items are clustered.
        low, high: confidence bounds of `delta`; nan where no interval is possible.
        right_to_wrong, wrong_to_right: flips, the items whose score changes.
        mcnemar_p: exact two-sided p of McNemar's test on the flips, blind to clusters.
        p_value: the p to adjust over tasks and to judge by: McNemar's for independent items of
            0 or 1, the paired t test's for real scores; with clusters the cluster-robust t test's,
            and for scores of 0 or 1 never below McNemar's.
        discordance: mean squared difference, for accuracies the share of items that flip.
        design_effect: variance of `delta` with its clusters over that of independent items.
    """

    n: int
    baseline_mean: float
    variant_mean: float
    delta: float
    low: float
    high: float
    standard_error: float
    right_to_wrong: int | None
    wrong_to_right: int | None
    mcnemar_p: float | None
    p_value: float
    discordance: float
    design_effect: float = 1.0

    @property
    def interval(self) -> Interval:
        """The difference with its bounds, for `verdicts.judge`."""
        return Interval(self.delta, self.low, self.high)

    @property
    def is_binary(self) -> bool:
        """Whether every score is 0 or 1."""
        return self.right_to_wrong is not None

    def items_needed(self, margin: float, *, delta: float = 0.0, power: float = 0.8) -> int | None:
        """Items in all that would show no loss beyond `margin`; see `items_needed`.

        The default assumes that the variant is truly as good as the baseline; pass `self.delta` to
        assume that the difference seen is the true one (`-self.delta` where lower is better).
        """
        return items_needed(
            margin,
            self.discordance,
            delta=delta,
            power=power,
            design_effect=self.design_effect,
            is_binary=self.is_binary,
        )


def paired_difference(
    baseline: npt.ArrayLike,
    variant: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> PairedDifference:
    """Compare the scores of two variants on the same items.

    For scores of 0 and 1 the interval is Tango's score interval (1998, Statistics in Medicine
    17:891), which holds with few flips and has a width even when no item flips; for real scores it
    is Student's t on the differences. Where no real score differs, the interval is that of binary
    items without flips, times the range of the scores (at least 1).

    Args:
        baseline, variant: score of each item, shape (items,), in the same order.
        clusters: id of the group each item belongs to (a passage with several questions, say),
            shape (items,). Errors are then robust to dependence within a cluster, and the interval
            uses the items that as many independent ones would be worth.
        confidence: probability that the interval covers the true difference.

    Raises:
        EvalkitError: for no items, different lengths, or a score that is not finite.
    """
    base, other = _scores(baseline, "baseline"), _scores(variant, "variant")
    if len(base) != len(other):
        raise EvalkitError(
            f"{len(base)} baseline and {len(other)} variant scores: join them by item first"
        )
    difference = other - base
    spread = spread_of(difference, clusters)
    is_binary = bool(np.isin(base, (0, 1)).all() and np.isin(other, (0, 1)).all())
    losses, gains = int((difference < 0).sum()), int((difference > 0).sum())
    exact = mcnemar(losses, gains) if is_binary else None
    if is_binary or not difference.any():
        span = max(1.0, float(np.ptp(np.concatenate([base, other]))))
        low, high = tango_bounds(losses, gains, len(base), spread, confidence)
        low, high = span * low, span * high
    else:
        low, high = student_bounds(spread, confidence)
    return PairedDifference(
        n=len(base),
        baseline_mean=float(base.mean()),
        variant_mean=float(other.mean()),
        delta=spread.mean,
        low=low,
        high=high,
        standard_error=spread.standard_error,
        right_to_wrong=losses if is_binary else None,
        wrong_to_right=gains if is_binary else None,
        mcnemar_p=exact,
        p_value=_p_value(spread, exact),
        discordance=float((difference**2).mean()),
        design_effect=spread.design_effect,
    )


def mean_interval(
    scores: npt.ArrayLike, clusters: npt.ArrayLike | None = None, confidence: float = 0.95
) -> Interval:
    """Confidence interval of the mean score of one variant, shape (items,), in its unit.

    For scores of 0 and 1 Wilson's score interval (1927, JASA 22:209), with clusters at the number
    of items that as many independent ones would be worth; for real scores Student's t.

    Raises:
        EvalkitError: for no items or a score that is not finite.
    """
    values = _scores(scores, "item")
    spread = spread_of(values, clusters)
    if not np.isin(values, (0, 1)).all():
        return Interval(spread.mean, *student_bounds(spread, confidence))
    critical = critical_value(spread, confidence)
    if np.isnan(critical):
        return Interval(spread.mean, np.nan, np.nan)
    n = spread.n / spread.design_effect
    centre = (spread.mean + critical**2 / (2 * n)) / (1 + critical**2 / n)
    variance = spread.mean * (1 - spread.mean) / n + (critical / (2 * n)) ** 2
    half = critical * float(np.sqrt(variance)) / (1 + critical**2 / n)
    # At 0 and 1 the bound is the estimate; rounding must not put it on the other side.
    low, high = min(centre - half, spread.mean), max(centre + half, spread.mean)
    return Interval(spread.mean, max(0.0, low), min(1.0, high))


def mcnemar(right_to_wrong: int, wrong_to_right: int) -> float:
    """Exact two-sided p of McNemar's test: the binomial test of the flips against one half."""
    flips = right_to_wrong + wrong_to_right
    return min(1.0, 2 * float(bdtr(min(right_to_wrong, wrong_to_right), flips, 0.5)))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values adjusted for as many tests, in the order given.

    Holm (1979, Scandinavian Journal of Statistics 6:65): if no task differs truly, the chance that
    any adjusted p is below 0.05 is at most 5 %.

    Raises:
        EvalkitError: for a value outside 0 to 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise EvalkitError(f"p-values {list(p_values)}: each must lie between 0 and 1")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, stepped)
    return tuple(float(p) for p in adjusted)


def _p_value(spread: Spread, exact: float | None) -> float:
    if exact is not None and not spread.is_clustered:
        return exact
    if spread.mean == 0 or spread.degrees == 0:
        return 1.0
    error = unbiased_error(spread)
    student = 2 * float(stdtr(spread.degrees, -abs(spread.mean) / error)) if error > 0 else 0.0
    # The t test is too sure of a few flips; the exact test knows nothing of clusters.
    return max(student, exact or 0.0)


def _scores(values: npt.ArrayLike, name: str) -> FloatArray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise EvalkitError(
            f"{name} scores of shape {scores.shape}: one finite number per item is needed; leave "
            "unscored items out of both sides"
        )
    return scores
