"""How long an evaluation takes on 1 to 1000 GPUs, simulated from measured task times.

One comparison of the demo model is measured part by part, each part in a process of its own as a
Ray worker runs it. The same parts, with the same order between them (`evalkit.running.cluster`),
are then scheduled for many models on many workers: a free worker takes the first part that may
start. Assumed: workers are alike; a part takes as long on any of them and loads its model for
itself; the store and the start of a process cost the same however many work at once; no worker is
lost.

    python benchmarks/scale.py [--models 100]
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import tempfile
import time
from collections.abc import Sequence

from _common import table, write_results

from evalkit.declaration import resolved
from evalkit.options import CompareOptions
from evalkit.progress import ignore
from evalkit.running.cluster import Shard, shards
from evalkit.running.compare.plan import make_plan
from evalkit.running.compare.run import run_plan

WORKERS = (1, 10, 100, 300, 1000)
VARIANTS = ("fp16", "int8", "int4")


def measured(limit: int) -> tuple[list[Shard], list[float]]:
    """The parts of one comparison and the seconds each took."""
    with tempfile.TemporaryDirectory() as folder:
        words = {"model": "demo", "limit": limit, "out": folder}
        plan = make_plan(VARIANTS, resolved(CompareOptions, words))
        found, seconds = shards(plan.jobs), []
        for shard in found:
            begun = time.perf_counter()
            run_plan(dataclasses.replace(plan, jobs=(shard.job,)), ignore)
            seconds.append(time.perf_counter() - begun)
    return found, seconds


def simulated(
    found: Sequence[Shard], seconds: Sequence[float], models: int, workers: int
) -> tuple[float, float]:
    """Seconds until all `models` are done by list scheduling, and the share of time at work."""
    waiting = [(model, part) for model in range(models) for part in range(len(found))]
    ready_at = {(model, part): 0.0 for model, part in waiting if not found[part].after}
    queue = [(0.0, model, part) for model, part in ready_at]
    left = {(model, part): len(found[part].after) for model, part in waiting}
    after: dict[int, list[int]] = {part: [] for part in range(len(found))}
    for part, shard in enumerate(found):
        for earlier in shard.after:
            after[earlier].append(part)
    heapq.heapify(queue)
    free = [0.0] * workers
    heapq.heapify(free)
    last = 0.0
    while queue:
        ready, model, part = heapq.heappop(queue)
        end = max(ready, heapq.heappop(free)) + seconds[part]
        heapq.heappush(free, end)
        last = max(last, end)
        for later in after[part]:
            left[model, later] -= 1
            ready_at[model, later] = max(ready_at.get((model, later), 0.0), end)
            if left[model, later] == 0:
                heapq.heappush(queue, (ready_at[model, later], model, later))
    return last, models * sum(seconds) / (last * workers)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    found, seconds = measured(options.limit)
    parts = [["part", "seconds"]]
    for shard, took in zip(found, seconds, strict=True):
        tasks = shard.part.run.suite.tasks if shard.part.kind == "task" else ()
        name = " ".join([shard.job.variant.label, shard.part.kind, *(one.name for one in tasks)])
        parts.append([name, f"{took:.1f}"])
    table("one comparison, part by part", parts)
    rows = [["GPUs", "time", "faster", "at work"]]
    results = []
    alone, _ = simulated(found, seconds, options.models, 1)
    for workers in WORKERS:
        took, share = simulated(found, seconds, options.models, workers)
        results.append({"workers": workers, "seconds": took, "busy": share})
        rows.append([str(workers), f"{took:,.0f} s", f"× {alone / took:.0f}", f"{share:.0%}"])
    table(f"{options.models} models of {len(VARIANTS)} variants, simulated", rows)
    write_results(
        "scale",
        {"models": options.models, "part_seconds": seconds, "simulated": results},
    )


if __name__ == "__main__":
    main()
