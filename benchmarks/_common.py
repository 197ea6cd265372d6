"""What all benchmarks share: the machine, interleaved timing, and where results go."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from evalkit.running.environment import PACKAGES, gpu_names, processor_name, threads

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT / ".." / "shared"


def machine() -> dict[str, Any]:
    """Processor, cores, memory, GPUs and library versions; nothing that names the host."""
    versions = {}
    for name in (*PACKAGES, "evalkit"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor_name(),
        "threads": threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpus": list(gpu_names()),
        "load_average": round(psutil.getloadavg()[0], 2),
        "versions": versions,
    }


@dataclass(frozen=True)
class Timings:
    """Seconds of each function, one value a round; values of a round belong together."""

    samples: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.samples[name])

    def ratio(self, name: str, base: str) -> dict[str, float]:
        """Median, smallest and largest ratio of two functions within a round."""
        pairs = zip(self.samples[name], self.samples[base], strict=True)
        ratios = [top / bottom for top, bottom in pairs]
        return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}

    def to_json(self) -> dict[str, Any]:
        return {
            name: {"median": self.median(name), "samples": [round(value, 5) for value in values]}
            for name, values in self.samples.items()
        }


def interleaved(
    functions: Mapping[str, Callable[[], Any]],
    repetitions: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Time `functions` in turn, `repetitions` times after a warm-up, so that a slow minute of the
    machine meets all of them; each round begins with another function."""
    names = list(functions)
    for function in functions.values():
        function()
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repetitions):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            functions[name]()
            samples[name].append(clock() - start)
    return Timings(samples)


def write_results(name: str, content: Mapping[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json with the machine beside the figures."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    whole = {"benchmark": name, "date": date, "machine": machine(), **content}
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    return path


def table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print `rows` with aligned columns; the first row is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print(f"\n{title}")
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())
