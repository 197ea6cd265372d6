"""A comparison's JSON without what depends on the machine's moment or on the store's place."""

from __future__ import annotations

from typing import Any

WORDS = ("tokens_per_second", "peak", "latency", "energy", "second", "bandwidth")
BUSY = "other processes kept"
NAMES = ("runs", "store", "command", "environment", "sentence")


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: timeless(inner)
            for key, inner in value.items()
            if key not in NAMES and not any(word in key for word in WORDS)
        }
    if isinstance(value, list):
        return [timeless(inner) for inner in value if not str(inner).startswith(BUSY)]
    return value
