"""Questions about paths that were typed or read from a file: an answer, never an error.

`pathlib` raises for a name that is too long, holds a zero byte, or has a `~` without a home.
"""

from __future__ import annotations

import re
from pathlib import Path

# A word is a path where it begins as one or has more than the one slash of a hub id.
_PATH = re.compile(r"[/~]|\.{1,2}(/|$)|[A-Za-z]:[\\/]|[^/]*/[^/]*/")


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


def called(reference: str, parts: int = 1) -> str:
    """What a model, file or option is called: the last `parts` of a path; other words as they are.

    A hub id such as "org/model" is no path, nor is the address of a server.
    """
    if "://" in reference or not _PATH.match(reference):
        return reference
    names = [name for name in re.split(r"[/\\]", reference) if name not in ("", ".", "..", "~")]
    return "/".join(names[-parts:]) or reference


def called_words(text: str) -> str:
    """The text form of a variant in which each path is what it is called."""
    words = [word.partition("=") for word in text.split(",")]
    return ",".join(
        f"{key}={called(value)}" if equals else called(key) for key, equals, value in words
    )
