"""What a Ray cluster costs: the same comparison here, and on a cluster of one worker here.

Both run the whole command in a fresh store, in turns, one part after the other: three variants
with two tasks each. The cluster is up before. One worker does the same work on the same cores, so
what it takes longer is Ray's: the connection, a worker that starts once, and a variant whose parts
are cut into more than one task, which is loaded more than once.

Goal: at most 10 % longer for parts of 10 seconds, that is one second a part.

    python benchmarks/ray_overhead.py [--repetitions 7] [--limit 400]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from _common import SHARED, interleaved, table, write_results
from ray.cluster_utils import Cluster

from evalkit.running.environment import threads

VARIANTS = ("fp32", "int8@bitsandbytes", "int8@torchao")
TASKS = ("arc_easy", "sciq")
GOAL_SECONDS = 1.0


def command(limit: int, *more: str) -> Callable[[], Any]:
    """A function that measures everything in a fresh store."""
    words = [sys.executable, "-m", "evalkit", "compare", *VARIANTS, "--tasks", ",".join(TASKS)]
    words += ["--model", str(SHARED / "models" / "stories260k"), "--data", str(SHARED / "data")]
    words += ["--limit", str(limit), "--offline", *more]

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([*words, "--out", folder], check=True, capture_output=True)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--limit", type=int, default=400)
    options = parser.parse_args()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": threads()})
    try:
        timings = interleaved(
            {
                "here": command(options.limit),
                "one Ray worker": command(options.limit, "--ray", cluster.address),
            },
            options.repetitions,
        )
    finally:
        cluster.shutdown()
    parts = len(VARIANTS) * (len(TASKS) + 1)
    here, there = timings.samples["here"], timings.samples["one Ray worker"]
    extra = statistics.median(b - a for a, b in zip(here, there, strict=True)) / parts
    rows = [["", "seconds", "a part"]]
    for name in timings.samples:
        took = timings.median(name)
        rows.append([name, f"{took:.1f}", f"{took / parts:.1f}"])
    table(f"{len(VARIANTS)} variants, {parts} parts", rows)
    print(f"  longer by {extra:.2f} s a part; goal at most {GOAL_SECONDS}")
    content = {"parts": parts, "limit": options.limit, "seconds": timings.to_json()}
    print(f"  {write_results('ray-overhead', {**content, 'extra_seconds_a_part': extra})}")


if __name__ == "__main__":
    main()
