"""The Python functions behind the command line and the notebooks."""

from evalkit.api.answering import answers
from evalkit.api.batching import batch
from evalkit.api.benching import bench
from evalkit.api.comparing import compare, dry_run
from evalkit.api.damage_map import sensitivity
from evalkit.api.examining import check, doctor
from evalkit.api.making import plan, pull, quantize
from evalkit.api.opening import (
    chart,
    flips,
    listing,
    load_answers,
    load_bench,
    load_comparison,
    load_run,
    load_sensitivity,
    report,
)
from evalkit.api.searching import search
from evalkit.api.speculating import speculate

__all__ = [
    "answers",
    "batch",
    "bench",
    "chart",
    "check",
    "compare",
    "doctor",
    "dry_run",
    "flips",
    "listing",
    "load_answers",
    "load_bench",
    "load_comparison",
    "load_run",
    "load_sensitivity",
    "plan",
    "pull",
    "quantize",
    "report",
    "search",
    "sensitivity",
    "speculate",
]
