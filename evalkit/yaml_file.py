"""Reading YAML that others wrote: plain values only, bounded in size and depth before it is built.

Both parsers of PyYAML end badly on deep nesting (the C one in a crash of the process, the Python
one after minutes), so depth is counted on the stream of events first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from evalkit.errors import UsageError

MOST_BYTES = 2**20
MOST_DEPTH = 64
# The parser of libyaml where PyYAML was built with it: ten times as fast.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(file: Path) -> Any:
    """The content of `file`: mappings, lists and plain values; raises UsageError in one line."""
    text = checked_text(file)
    try:
        return yaml.load(text, Loader=LOADER)  # a safe loader: it builds plain values only
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise UsageError(_line(file, error)) from error


def compose_yaml(file: Path) -> yaml.Node | None:
    """The tree of `file` with its tags, nothing built of it; raises UsageError in one line."""
    text = checked_text(file)
    try:
        root: yaml.Node | None = yaml.compose(text, LOADER)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(_line(file, error)) from error
    return root


def nodes_of(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Every node below `root` once, however often aliases name it."""
    waiting, seen = [root] if root is not None else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [one for pair in node.value for one in pair]


def checked_text(file: Path) -> str:
    """The text of `file` if it is YAML of at most 1 MiB and 64 levels; raises UsageError."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UsageError(f"{file} is larger than {MOST_BYTES} bytes; check the path")
        text = file.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise UsageError(f"{file} is nested more than {MOST_DEPTH} levels deep")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(_line(file, error)) from error
    return text


def _line(file: Path, error: BaseException) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{file}:{error.problem_mark.line + 1} is not YAML: {error.problem}"
    return f"{file} is not YAML: {error}"
