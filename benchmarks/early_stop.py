"""What `--until-decided` errs and takes, by simulation: wrong decisions, coverage, items.

Items flip at a rate and lose on average what is said; a series is looked at after every item (or
group), which is harder than after every batch. Recorded: at a loss of exactly the margin how often
"no loss" is ever claimed, at no loss how often "beyond the margin", how often the sequence holds
the true loss where the series stopped, and the median of the items that "no loss" takes.

    python benchmarks/early_stop.py [--runs 10000] [--items 3000]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from _common import table, write_results

from evalkit.analysis.betting import Draws, log_capital

MARGIN = 0.01
WANTED = np.log(2 / 0.05)  # 95 % over both claims
CHUNK = 20
LARGEST = 6  # items of a group
Floats = np.ndarray


def independent(rng: np.random.Generator, runs: int, items: int, rate: float, loss: float) -> Draws:
    """Items that flip on their own: a loss of 1, a gain of 1, or nothing."""
    chance = rng.random((runs, items))
    lost, won = (rate + loss) / 2, (rate - loss) / 2
    values = (chance < lost).astype(np.float64) - (chance > 1 - won)
    return Draws(values, np.ones(items))


def clustered(rng: np.random.Generator, runs: int, items: int, rate: float, loss: float) -> Draws:
    """Groups of 1 to LARGEST items; in some groups every second item flips, all the same way."""
    groups = int(items / ((1 + LARGEST) / 2))
    sizes = rng.integers(1, LARGEST + 1, (runs, groups)).astype(np.float64)
    touched = rng.random((runs, groups)) < 2 * rate
    sign = np.where(rng.random((runs, groups)) < (1 + loss / rate) / 2, 1.0, -1.0)
    flips = rng.binomial(sizes.astype(np.int64), 0.5)
    return Draws(touched * sign * flips, sizes, largest=LARGEST)


KINDS = {"independent": independent, "clustered": clustered}


def chunks(kind: str, runs: int, items: int, rate: float, loss: float) -> Iterator[Draws]:
    """Series of `runs` runs, some at a time."""
    for chunk in range(-(-runs // CHUNK)):
        rng = np.random.default_rng([chunk, round(1e4 * rate), round(1e4 * (1 + loss))])
        yield KINDS[kind](rng, min(CHUNK, runs - chunk * CHUNK), items, rate, loss)


def first(capital: Floats) -> Floats:
    """After which unit the capital first suffices, shape (runs,); the number of units for never."""
    reached = capital >= WANTED
    return np.where(reached.any(axis=1), reached.argmax(axis=1), capital.shape[1])


def errors(kind: str, runs: int, items: int, rate: float, loss: float) -> dict[str, float]:
    """Share of runs that claimed either, and whose sequence held the loss where they stopped."""
    smaller = larger = missed = 0
    for draws in chunks(kind, runs, items, rate, loss):
        other = draws.mirrored()
        no_loss, beyond = first(log_capital(other, -MARGIN)), first(log_capital(draws, MARGIN))
        stop = np.minimum(np.minimum(no_loss, beyond), draws.totals.shape[1] - 1)
        refuted = np.minimum(no_loss, beyond)
        if loss != MARGIN:
            refuted = np.minimum(first(log_capital(draws, loss)), first(log_capital(other, -loss)))
        smaller += int((no_loss < draws.totals.shape[1]).sum())
        larger += int((beyond < draws.totals.shape[1]).sum())
        missed += int((refuted <= stop).sum())
    return {
        "claimed_no_loss": smaller / runs,
        "claimed_beyond_margin": larger / runs,
        "covered_at_stopping": 1 - missed / runs,
    }


def median_items(runs: int, items: int, rate: float, loss: float) -> dict[str, float | None]:
    """Quartiles of the items until decided; None where so many were not within `items`."""
    found = []
    for draws in chunks("independent", runs, items, rate, loss):
        other = draws.mirrored()
        sides = first(log_capital(other, -MARGIN)), first(log_capital(draws, MARGIN))
        found.append(np.minimum(*sides) + 1)
    quartiles = np.quantile(np.concatenate(found), [0.25, 0.5, 0.75], method="lower")
    names = ("quarter", "median", "three_quarters")
    return {n: None if q > items else int(q) for n, q in zip(names, quartiles, strict=True)}


def main() -> None:
    """Simulate, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=3_000)
    asked = parser.parse_args()
    rows = []
    for kind in KINDS:
        for rate in (0.02, 0.1):
            for loss in (0.0, MARGIN):
                found = errors(kind, asked.runs, asked.items, rate, loss)
                rows.append({"items": kind, "flip_rate": rate, "loss": loss, **found})
                print(rows[-1], flush=True)
    takes = []
    for rate, loss, items in (
        (0.02, 0.0, 8_000), (0.05, 0.0, 20_000), (0.1, 0.0, 40_000), (0.1, 0.05, 8_000),
        (0.05, -0.01, 20_000), (0.05, 0.005, 60_000),
    ):  # fmt: skip
        takes.append({"flip_rate": rate, "loss": loss, **median_items(400, items, rate, loss)})
    for title, lines in (("errors", rows), ("items until decided", takes)):
        table(title, [[*lines[0]], *([str(cell) for cell in line.values()] for line in lines)])
    content = {"margin": MARGIN, "runs": asked.runs, "items": asked.items}
    write_results("early-stop", {**content, "errors": rows, "items_until_decided": takes})


if __name__ == "__main__":
    main()
