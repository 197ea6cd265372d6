"""Replays the tasks of a whole comparison as `--until-decided` would have asked them.

The answers of every item are read from the store, so that nothing is asked again: each variant's
items are drawn in as many orders as wanted, and read after every item. For each task and variant:
the share of orders that were decided, quartiles of the items that took, and how many decisions
contradict the whole run (its ordinary interval excludes what was decided).

    evalkit compare fp16 int4@bitsandbytes int4@gptq,bits=3 --model DIR --tasks arc_easy \\
        --data ../shared/data --out STORE
    python benchmarks/early_stop_replay.py STORE [--orders 20] [--margin 1pp]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from _common import table, write_results

from evalkit import load_comparison
from evalkit.analysis.betting import log_capital
from evalkit.analysis.paired import paired_difference
from evalkit.analysis.stopping import paired_loss
from evalkit.analysis.task_values import ItemScores
from evalkit.analysis.verdicts import parse_margin
from evalkit.results.load_measured import load_measured
from evalkit.store.store import Store

WANTED = np.log(2 / 0.05)


def replay(base: ItemScores, one: ItemScores, margin: float, orders: int) -> dict[str, Any]:
    """What became of one task and variant in all orders."""
    both = base.measured & one.measured
    mine, theirs, clusters = base.values[both], one.values[both], one.clusters[both]
    whole = paired_difference(mine, theirs, clusters)
    largest = int(np.bincount(clusters).max())
    took, contradicted = [], 0
    for seed in range(orders):
        groups, members = np.unique(clusters, return_inverse=True)
        rank = np.random.default_rng(seed).permutation(len(groups))
        order = np.argsort(rank[members], kind="stable")
        loss = paired_loss(
            mine[order], theirs[order], clusters[order].astype(np.int64), largest=largest,
            higher_is_better=one.higher_is_better,
        )  # fmt: skip
        smaller = np.flatnonzero(log_capital(loss.draws.mirrored(), -margin) >= WANTED)
        larger = np.flatnonzero(log_capital(loss.draws, margin) >= WANTED)
        stops = [int(found[0]) if len(found) else len(mine) for found in (smaller, larger)]
        if min(stops) == len(mine):
            continue
        took.append(float(loss.draws.sizes[: min(stops) + 1].sum()))
        lost = (-whole.high, -whole.low) if one.higher_is_better else (whole.low, whole.high)
        contradicted += lost[0] > margin if stops[0] < stops[1] else lost[1] < margin
    quartiles = np.quantile(took, [0.25, 0.5, 0.75]) if took else [None] * 3
    return {
        "task": one.task, "items": len(mine), "flips": whole.discordance, "delta": whole.delta,
        "low": whole.low, "high": whole.high, "decided": len(took) / orders,
        "quarter": quartiles[0], "median": quartiles[1], "three_quarters": quartiles[2],
        "contradict": contradicted,
    }  # fmt: skip


def main() -> None:
    """Replay, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--margin", default="1pp")
    asked = parser.parse_args()
    store, margin = Store(asked.store), parse_margin(asked.margin)
    rows = []
    sides = {}
    for row in load_comparison(store=asked.store).rows:
        runs = tuple(run for name in row.runs if (run := store.load(name)) is not None)
        sides[row.variant.label] = load_measured(store, row.variant, runs, None, "").tasks
    baseline, *variants = sides
    for variant in variants:
        for key, one in sides[variant].items():
            # One that stopped has no answers to replay.
            if one.primary and one.is_mean and one.drawn is None and key in sides[baseline]:
                found = replay(sides[baseline][key], one, margin.points, asked.orders)
                rows.append({"variant": variant, **found})
    table("replayed", [[*rows[0]], *([str(cell) for cell in row.values()] for row in rows)])
    write_results(
        "early-stop-replay", {"margin": margin.text, "orders": asked.orders, "rows": rows}
    )


if __name__ == "__main__":
    main()
