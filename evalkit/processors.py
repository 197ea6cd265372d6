"""The processors of this machine."""

from __future__ import annotations

import os


def threads() -> int:
    """Processors this process may use; macOS and Windows tell only how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
