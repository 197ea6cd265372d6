"""Standard errors of means over items, clustered or not, and the bounds built on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from evalkit.analysis.blocks import FloatArray
from evalkit.errors import EvalkitError


@dataclass(frozen=True)
class Spread:
    """Mean of n values, its standard error, and the degrees of freedom behind the error.

    Without clusters, or with one for each item, the error divides by n (the definition of the
    paired standard error) and `degrees` is n - 1; with clusters it is cluster-robust and `degrees`
    the clusters less one.
    """

    n: int
    mean: float
    standard_error: float
    degrees: int
    design_effect: float
    is_clustered: bool


def spread_of(values: FloatArray, clusters: npt.ArrayLike | None) -> Spread:
    """Spread of `values`, shape (items,), with the cluster of each item or None.

    Raises:
        EvalkitError: for clusters of another shape.
    """
    n, mean = len(values), float(values.mean())
    independent = float(values.std()) / float(np.sqrt(n))
    labels = np.arange(n) if clusters is None else np.asarray(clusters)
    if labels.shape != (n,):
        raise EvalkitError(f"clusters of shape {labels.shape}: one id for each of {n} items")
    groups = np.unique(labels, return_inverse=True)[1]
    totals = np.bincount(groups, weights=values - mean)
    if len(totals) == n:
        return Spread(n, mean, independent, n - 1, 1.0, False)
    if len(totals) == 1:
        return Spread(n, mean, float("nan"), 0, 1.0, True)
    scale = len(totals) / (len(totals) - 1)
    error = float(np.sqrt(scale * (totals**2).sum())) / n
    # Below 1 it is chance; without any spread there is none to see.
    effect = max(1.0, (error / independent) ** 2) if independent > 0 else 1.0
    return Spread(n, mean, error, len(totals) - 1, effect, True)


def critical_value(spread: Spread, confidence: float) -> float:
    """Normal quantile for independent items of 0 or 1, Student's for clusters (nan for one)."""
    _check_confidence(confidence)
    tail = (1 + confidence) / 2
    if not spread.is_clustered:
        return float(ndtri(tail))
    return float(stdtrit(spread.degrees, tail)) if spread.degrees else float("nan")


def student_bounds(spread: Spread, confidence: float) -> tuple[float, float]:
    """Bounds of the mean by Student's t; nan for a single item or cluster."""
    _check_confidence(confidence)
    if spread.degrees == 0:
        return float("nan"), float("nan")
    half = float(stdtrit(spread.degrees, (1 + confidence) / 2)) * unbiased_error(spread)
    return spread.mean - half, spread.mean + half


def unbiased_error(spread: Spread) -> float:
    """The standard error with n - 1 in place of n, as Student's t needs it."""
    if spread.is_clustered:
        return spread.standard_error
    return spread.standard_error * float(np.sqrt(spread.n / spread.degrees))


def tango_bounds(
    losses: int, gains: int, n: int, spread: Spread, confidence: float
) -> tuple[float, float]:
    """Roots of Tango's score statistic: the differences the data do not reject."""
    critical = critical_value(spread, confidence)
    if np.isnan(critical):
        return float("nan"), float("nan")
    size = n / spread.design_effect
    gained, lost = gains / n, losses / n
    estimate = gained - lost

    def excess(difference: float, bound: float) -> float:
        variance = tango_variance(difference, gained, lost) / size
        return estimate - difference - bound * float(np.sqrt(variance))

    # Where all items agree the variance is zero at the estimate itself, which is then a root but
    # not the one wanted: the search stops just short of it.
    near = 1e-12
    low = -1.0 if estimate == -1 else brentq(excess, -1.0, estimate - near, args=(critical,))
    high = 1.0 if estimate == 1 else brentq(excess, estimate + near, 1.0, args=(-critical,))
    return float(low), float(high)


def tango_variance(difference: float, gained: float, lost: float) -> float:
    """Variance per item of gained - lost, with the shares most likely under `difference`.

    gained and lost are the shares of items that flip to right and to wrong (Tango 1998, eq. 3).
    """
    slope = -gained - lost + (2 - gained + lost) * difference
    constant = -lost * difference * (1 - difference)
    share = (np.sqrt(max(0.0, slope**2 - 8 * constant)) - slope) / 4
    return max(0.0, float(2 * share + difference * (1 - difference)))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise EvalkitError(f"confidence {confidence}: it must lie between 0 and 1; try 0.95")
