"""What is wrong with a task's YAML or code, in one line with file and line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from lm_eval.tasks._yaml_loader import load_yaml


def explain(name: str, path: Path | None, error: Exception) -> str:
    """One line for what is wrong with a task: file and line where they can be told."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"task {name!r}: {mark.name}:{mark.line + 1}: {error.problem or text}"
    if path is None:
        return f"task {name!r}: {type(error).__name__}: {text}"
    line = _line_naming(path, re.findall(r"['\"]([^'\"]{3,})['\"]", str(error)))
    return f"task {name!r}: {path}{f':{line}' if line else ''}: {type(error).__name__}: {text}"


def broken_files(paths: Iterable[Path]) -> dict[Path, str]:
    """Files below `paths` that are no readable task YAML, with file, line and reason."""
    problems = {}
    for root in paths:
        for path in [root] if root.is_file() else sorted(root.rglob("*.yaml")):
            try:
                load_yaml(path, resolve_func=False)
            except Exception as error:  # a YAML can be wrong in any way
                problems[path] = explain(path.stem, path, error).partition(": ")[2]
    return problems


def names_task(path: Path, task: str) -> bool:
    """Whether the text of a broken file names `task`."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return (
        re.search(rf"^['\"]?(task|group)['\"]?:\s*['\"]?{re.escape(task)}\b", text, re.M)
        is not None
    )


def _line_naming(path: Path, words: Sequence[str]) -> int | None:
    """Number of the first line of `path` that contains one of `words`, in their order."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for word in words:
        for number, line in enumerate(lines, 1):
            if word in line:
                return number
    return None
