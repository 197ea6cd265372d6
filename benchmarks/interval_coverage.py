"""How often do the intervals hold what they claim? Simulated, with the dependence of real text.

A series of paired differences is made as real ones are: units of 64 tokens whose values are
correlated with their neighbours', have heavier tails than the normal distribution, and follow a
trend along the window; each document has a mean of its own. Deviation and trend of DEPENDENCE were
fitted with `--fit` to SmolLM2-135M in NF4 on WikiText-2 (windows of 2,048 tokens). There, and in
INT8, neighbours correlate by -0.10 and 0.07 and tails are those of 23 degrees of freedom and more:
DEPENDENCE has more correlation and heavier tails for safety. How documents differ is assumed.

The truth is, of "more of the same documents", the mean of the documents at hand; of "texts like
this", that of all documents; of "these tokens", the difference without rounding, where each pass
has rounding errors of its own.

Goal: every interval of 95 % covers the truth in 93 to 97 % of the repetitions.

    python benchmarks/interval_coverage.py [--repetitions 2000]
    python benchmarks/interval_coverage.py --fit SERIES.npz

SERIES.npz holds arrays a and b, shape (windows, tokens): the negative log-likelihoods under
baseline and variant.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import table, write_results
from numpy.typing import NDArray
from scipy.signal import lfilter

from evalkit.analysis.bootstrap import Interval, bootstrap_interval
from evalkit.analysis.summaries import TokenTable, paired_delta, rounding_bound
from evalkit.analysis.units import UNIT_TOKENS
from evalkit.records import Claim

Floats = NDArray[np.float64]
WINDOWS, DOCUMENTS = (1, 3, 10, 100), (1, 5, 50)
LOW, HIGH = 0.93, 0.97


@dataclass(frozen=True)
class Dependence:
    """A process of paired differences, unit by unit; standard deviations are in nats.

    Attributes:
        deviation: of the mean of a unit around its document's.
        correlation: of neighbouring units.
        tail: degrees of freedom of the t distribution of what is new in a unit.
        trend: what the first unit of a window has on top; it falls by half with each unit.
        between: of a document's mean.
        units: in a window.
    """

    deviation: float
    correlation: float
    tail: float
    trend: float
    between: float
    units: int


DEPENDENCE = Dependence(0.1, 0.1, 6.0, -0.025, 0.05, 32)


def series(
    random: np.random.Generator, process: Dependence, documents: int, windows: int
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Unit means (units,), the document of each, and the true mean of each document.

    Each document has `windows` windows.
    """
    count = windows * process.units
    new = random.standard_t(process.tail, (documents, count + 50))
    new *= np.sqrt((process.tail - 2) / process.tail * (1 - process.correlation**2))
    values = process.deviation * lfilter([1.0], [1.0, -process.correlation], new)[:, 50:]
    trend = process.trend * 0.5 ** np.arange(process.units)
    values += np.tile(trend, windows)
    own = process.between * random.standard_normal(documents)
    return (
        (values + own[:, None]).ravel(),
        np.repeat(np.arange(documents), count),
        own + trend.mean(),
    )


def interval(values: Floats, documents: NDArray[np.int64], claim: Claim) -> Interval:
    """The interval of the mean of units of equal size."""
    return bootstrap_interval(
        lambda totals: totals[:, 0] / totals[:, 1],
        np.column_stack([values, np.ones(len(values))]),
        groups=documents,
        claim=claim,
        resamples=500,
    )


def same_documents(
    random: np.random.Generator, process: Dependence, documents: int, windows: int
) -> bool:
    """Whether the interval about more of the same documents holds their mean."""
    values, of_unit, truth = series(random, process, documents, windows)
    found = interval(values, of_unit, Claim.DOCUMENTS)
    return bool(found.low <= truth.mean() <= found.high)


def other_texts(
    random: np.random.Generator, process: Dependence, documents: int, windows: int
) -> bool:
    """Whether the interval about texts like this holds the mean of all documents."""
    values, of_unit, _ = series(random, process, documents, windows)
    found = interval(values, of_unit, Claim.TEXTS)
    truth = process.trend * (0.5 ** np.arange(process.units)).mean()
    return bool(found.low <= truth <= found.high)


def these_tokens(
    random: np.random.Generator, process: Dependence, documents: int, windows: int
) -> bool:
    """Whether the estimate and the noise floor around it hold the difference without rounding."""
    length = process.units * UNIT_TOKENS
    count = documents * windows
    exact = random.exponential(2.0, count * length)
    loss = 0.02 + 0.5 * random.standard_normal(count * length)
    rounding = 1e-3 * random.standard_normal((3, count * length))

    def table(nll: Floats) -> TokenTable:
        folded = {
            "slice": np.zeros(count, int), "document": np.repeat(np.arange(documents), windows),
            "scored": np.full(count, length), "sum_nll": nll.reshape(count, length).sum(1),
        }  # fmt: skip
        columns = {"window": np.repeat(np.arange(count), length), "nll": nll}
        return TokenTable(folded, columns.__getitem__)

    baseline, again, variant = (
        table(exact + more) for more in (rounding[0], rounding[1], loss + rounding[2])
    )
    found = paired_delta(baseline, variant, "nll", "exp_mean").estimate
    floor = rounding_bound(baseline, again, "nll", "exp_mean", count * length)
    base = np.exp(exact.mean())
    truth = base * np.expm1(loss.mean())
    return bool(abs(found - truth) <= floor)


SIMULATED: dict[Claim, Callable[[np.random.Generator, Dependence, int, int], bool]] = {
    Claim.TOKENS: these_tokens,
    Claim.DOCUMENTS: same_documents,
    Claim.TEXTS: other_texts,
}


def coverage(
    claim: Claim, documents: int, windows: int, repetitions: int, process: Dependence = DEPENDENCE
) -> float:
    """The share of repetitions in which the interval about `claim` holds the truth."""
    hits = [
        SIMULATED[claim](np.random.default_rng(seed), process, documents, windows)
        for seed in range(repetitions)
    ]
    return float(np.mean(hits))


def fit(file: Path) -> Dependence:
    """The process of the paired differences in `file`."""
    with np.load(file) as arrays:
        differences = arrays["b"] - arrays["a"]
    windows, tokens = differences.shape
    count = tokens // UNIT_TOKENS
    units = differences[:, : count * UNIT_TOKENS].reshape(windows, count, UNIT_TOKENS).mean(2)
    along = units.mean(0)
    centred = units - units.mean()
    lagged = (centred[:, 1:] * centred[:, :-1]).sum() / (centred**2).sum()
    excess = float((centred**4).mean() / (centred**2).mean() ** 2 - 3)
    return Dependence(
        deviation=float(centred.std()),
        correlation=float(lagged),
        tail=4 + 6 / excess if excess > 0 else 30.0,
        trend=float(along[0] - along[1:].mean()),
        between=float(np.sqrt(max(0.0, units.mean(1).var(ddof=1) - centred.var() / count))),
        units=count + 1,
    )


def cells() -> list[tuple[Claim, int, int]]:
    """Every claim with the documents, and windows of each, that are simulated."""
    found = []
    for claim, documents, windows in itertools.product(Claim, DOCUMENTS, WINDOWS):
        is_possible = documents >= 5 or claim is not Claim.TEXTS
        largest = {Claim.TOKENS: 10, Claim.DOCUMENTS: 100}.get(claim, 500)
        if claim in SIMULATED and is_possible and documents * windows <= largest:
            found.append((claim, documents, windows))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--fit", type=Path)
    given = parser.parse_args()
    if given.fit:
        print(fit(given.fit))
        return
    rows: list[dict[str, Any]] = []
    for claim, documents, windows in cells():
        repetitions = given.repetitions
        share = coverage(claim, documents, windows, repetitions)
        rows.append({
            "claim": claim, "documents": documents, "windows_each": windows,
            "repetitions": repetitions, "coverage": round(share, 4), "holds": LOW <= share <= HIGH,
        })  # fmt: skip
        print(*rows[-1].values(), flush=True)
    header = list(rows[0])
    table("Coverage of 95 % intervals", [header, *([str(v) for v in r.values()] for r in rows)])
    write_results("interval-coverage", {"dependence": asdict(DEPENDENCE), "rows": rows})


if __name__ == "__main__":
    main()
