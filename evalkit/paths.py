"""Questions about paths that were typed or read from a file: an answer, never an error.

`pathlib` raises for a name that is too long, holds a zero byte, or has a `~` without a home.
"""

from __future__ import annotations

from pathlib import Path


def expanded(text: str | Path) -> Path:
    """`text` as a path, `~` replaced where there is such a home."""
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):
        return Path(text)


def is_dir(path: Path) -> bool:
    """Whether `path` is a directory that can be reached."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether `path` is a file that can be reached."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
