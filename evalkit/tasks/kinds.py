"""Placeholder until the branch with the real one is merged."""

from __future__ import annotations

from pathlib import Path

from evalkit.records import TaskSlice


def generates_text(task: TaskSlice, include_path: Path | None) -> bool:
    """Whether."""
    return False
