"""The Python functions behind the command line and the notebooks."""

from evalkit.api.batching import batch
from evalkit.api.comparing import compare, dry_run
from evalkit.api.making import plan, pull, quantize
from evalkit.api.opening import (
    chart,
    flips,
    listing,
    load_comparison,
    load_run,
    report,
)

__all__ = [
    "batch",
    "chart",
    "compare",
    "dry_run",
    "flips",
    "listing",
    "load_comparison",
    "load_run",
    "plan",
    "pull",
    "quantize",
    "report",
]
