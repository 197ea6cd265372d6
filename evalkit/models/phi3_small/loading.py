"""What is checked after the weights of a checkpoint are loaded."""

from __future__ import annotations

from typing import Any

from evalkit.errors import UsageError


def check_weights(name: str, info: dict[str, Any]) -> None:
    """Raise UsageError if loading left weights of checkpoint `name` random."""
    missing, mismatched = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    if missing:
        raise UsageError(
            f"{name}: {len(missing)} weights of Phi-3 Small are missing, the first is "
            f"{missing[0]!r}; the files belong to another architecture or are incomplete"
        )
    if mismatched:
        key, found, expected = mismatched[0]
        raise UsageError(
            f"{name}: {key!r} has shape {tuple(found)} and config.json asks for "
            f"{tuple(expected)}; correct the sizes or head counts in config.json"
        )
