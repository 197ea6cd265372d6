"""Time and memory of `evalkit compare` as the corpus and the number of items grow.

Each size runs the whole command in a fresh store, in turns with the other sizes. Memory is the
largest sum of resident bytes of the command and its children that are not shared with others
(USS), sampled 20 times a second; time leaves out the smallest size's start, so that the slope is
seen: seconds for each further unit, which is equal for all sizes where time is linear.

    python benchmarks/growth.py [--repetitions 1]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from _common import SHARED, table, write_results

SIZES = (1, 4, 16)
STORIES, ITEMS = 40, 60
SEPARATOR = "<|endoftext|>"


def command(kind: str, times: int, folder: Path) -> list[str]:
    words = [sys.executable, "-m", "evalkit", "compare", "fp32", "int8@bitsandbytes", "--offline"]
    words += ["--model", str(SHARED / "models" / "stories260k"), "--out", str(folder / "store")]
    if kind == "items":
        return [
            *words, "--tasks", "arc_easy", "--limit", str(ITEMS * times),
            "--data", str(SHARED / "data"),
        ]  # fmt: skip
    stories = (SHARED / "data" / "text" / "tinystories_1000.txt").read_text().split(SEPARATOR)
    text = folder / "stories.txt"
    text.write_text(SEPARATOR.join(stories[: STORIES * times]), encoding="utf-8")
    return [*words, "--text", str(text), "--context", "512"]


def run(words: list[str]) -> tuple[float, int]:
    """Seconds, and the largest memory of the command and its children in bytes."""
    begun, peak = time.perf_counter(), 0
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        peak = max(peak, held(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.stderr.read().decode() if process.stderr else "failed")
    return time.perf_counter() - begun, peak


def held(pid: int) -> int:
    total = 0
    try:
        main = psutil.Process(pid)
        for one in [main, *main.children(recursive=True)]:
            total += int(one.memory_full_info().uss)
    except psutil.Error:
        pass
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=1)
    options = parser.parse_args()
    whole: dict[str, Any] = {}
    rows = [["grows", "size", "seconds", "a further unit", "peak memory"]]
    for kind, unit in (("stories", STORIES), ("items", ITEMS)):
        found: dict[int, list[tuple[float, int]]] = {size: [] for size in SIZES}
        for _ in range(options.repetitions):
            for size in SIZES:
                with tempfile.TemporaryDirectory() as folder:
                    found[size].append(run(command(kind, size, Path(folder))))
        seconds = {size: statistics.median(s for s, _ in found[size]) for size in SIZES}
        peaks = {size: max(p for _, p in found[size]) for size in SIZES}
        whole[kind] = {
            "unit": unit,
            "seconds": seconds,
            "peak_bytes": peaks,
            "repetitions": options.repetitions,
        }
        for smaller, size in zip((None, *SIZES), SIZES, strict=False):
            further = "-"
            if smaller is not None:
                slope = (seconds[size] - seconds[smaller]) / ((size - smaller) * unit)
                further = f"{1e3 * slope:.1f} ms"
            rows.append([
                kind, f"×{size}: {unit * size}", f"{seconds[size]:.1f}", further,
                f"{peaks[size] / 1e6:.0f} MB",
            ])  # fmt: skip
    table("evalkit compare fp32 int8: stories260k", rows)
    write_results("growth", whole)


if __name__ == "__main__":
    main()
