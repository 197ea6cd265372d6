"""evalkit: what quantizing a language model costs in quality and buys in speed and memory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.api import (
        answers,
        batch,
        bench,
        chart,
        check,
        compare,
        doctor,
        dry_run,
        flips,
        listing,
        load_answers,
        load_bench,
        load_comparison,
        load_run,
        load_sensitivity,
        plan,
        pull,
        quantize,
        report,
        search,
        sensitivity,
        speculate,
    )
    from evalkit.errors import EvalkitError
    from evalkit.records import Comparison, Measurement, Run, Suite, Variant

__version__ = "0.1.0"

_PUBLIC = {
    "answers": "evalkit.api",
    "batch": "evalkit.api",
    "bench": "evalkit.api",
    "load_answers": "evalkit.api",
    "load_bench": "evalkit.api",
    "report": "evalkit.api",
    "chart": "evalkit.api",
    "check": "evalkit.api",
    "doctor": "evalkit.api",
    "compare": "evalkit.api",
    "listing": "evalkit.api",
    "load_comparison": "evalkit.api",
    "load_run": "evalkit.api",
    "load_sensitivity": "evalkit.api",
    "dry_run": "evalkit.api",
    "flips": "evalkit.api",
    "plan": "evalkit.api",
    "pull": "evalkit.api",
    "quantize": "evalkit.api",
    "search": "evalkit.api",
    "sensitivity": "evalkit.api",
    "speculate": "evalkit.api",
    "EvalkitError": "evalkit.errors",
    "Comparison": "evalkit.records",
    "Measurement": "evalkit.records",
    "Run": "evalkit.records",
    "Suite": "evalkit.records",
    "Variant": "evalkit.records",
}

__all__ = [
    "Comparison",
    "EvalkitError",
    "Measurement",
    "Run",
    "Suite",
    "Variant",
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


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing evalkit stays light."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'evalkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
