"""Do two benches of the same variant agree, and is a variant ever faster than itself?

A pair is two fresh runs of `evalkit.bench` of one variant on the demo model, each in a store of
its own. The two agree where their 95 % intervals over rounds share a speed; the second is called
faster or slower than the first by the rule of the table of `evalkit bench`, whose variants take
turns round by round: here one bench runs after the other, which is harder.

Goal: nine pairs of ten agree, and none is called faster or slower.

    python benchmarks/repeatability.py [--pairs 10] [--variant fp16] [--rounds 5]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from _common import table, write_results

import evalkit
from evalkit.analysis.sweep import ratio, verdict
from evalkit.progress import ignore
from evalkit.records.bench import Bench, BenchPoint

PHASES = ("prefill", "decode")
GOAL = 0.9


def one(variant: str, rounds: int, folder: Path) -> Bench:
    return evalkit.bench(
        variant, model="demo", device="cpu", batch_sizes=[1], rounds=rounds, out=folder,
        progress=ignore,
    )  # fmt: skip


def point(bench: Bench, phase: str) -> BenchPoint:
    return next(p for p in bench.points if p.phase == phase and p.batch_size == 1)


def compared(first: BenchPoint, second: BenchPoint) -> dict[str, Any]:
    """Two benches of one phase: both speeds with intervals, and what is concluded of them."""
    assert first.low and first.high and second.low and second.high
    found = ratio(second.rounds, first.rounds)
    assert found is not None
    return {
        "speeds": [first.tokens_per_second, second.tokens_per_second],
        "intervals": [[first.low, first.high], [second.low, second.high]],
        "agree": first.low <= second.high and second.low <= first.high,
        "ratio": found,
        "called": verdict(second.rounds, first.rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--variant", default="fp16")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    pairs: list[dict[str, Any]] = []
    rows = [["pair", "prefill", "ratio", "agree", "decode", "ratio", "agree"]]
    for number in range(options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            both = [one(options.variant, options.rounds, Path(folder) / str(i)) for i in range(2)]
        pairs.append({p: compared(*(point(bench, p) for bench in both)) for p in PHASES})
        cells = [str(number + 1)]
        for phase in PHASES:
            found = pairs[-1][phase]
            middle, low, high = found["ratio"]
            cells += [
                " / ".join(f"{speed:.0f}" for speed in found["speeds"]),
                f"{middle:.3f} [{low:.3f}, {high:.3f}]",
                "yes" if found["agree"] else "no",
            ]
        rows.append(cells)
    table(f"Pairs of benches of {options.variant} on the demo model, tokens/s", rows)
    summary = {
        phase: {
            "agree": sum(pair[phase]["agree"] for pair in pairs),
            "called": sum(bool(pair[phase]["called"]) for pair in pairs),
        }
        for phase in PHASES
    }
    for phase, found in summary.items():
        print(
            f"  {phase}: {found['agree']} of {len(pairs)} pairs agree (goal {GOAL:.0%}),"
            f" {found['called']} called faster or slower"
        )
    content = {"variant": options.variant, "rounds": options.rounds, "summary": summary}
    print(f"  {write_results('repeatability', content | {'pairs': pairs})}")


if __name__ == "__main__":
    main()
