"""Which tasks generate text, known from their YAML alone: no data is loaded, no code run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evalkit.records import TaskSlice
from evalkit.tasks.lm_eval_index import Leaf, Registry, open_registry

GENERATING = "generate_until"


def generating_tasks(
    names: Sequence[TaskSlice],
    *,
    include_path: Sequence[Path] = (),
    allow_code: bool = False,
) -> dict[str, bool]:
    """For each name whether its task, or any task of its group, generates text.

    A Python class, of which this cannot be known, counts as one that does. Raises DataError for an
    unknown name, a file that cannot be read, and an `include_path` that does not exist.
    """
    registry = open_registry([one.name for one in names], include_path, allow_code=allow_code)
    return {one.name: _generates(registry, one.name) for one in names}


def _generates(registry: Registry, name: str) -> bool:
    leaves, _ = registry.expand(name)
    return any(_leaf_generates(leaf) for leaf in leaves)


def _leaf_generates(leaf: Leaf) -> bool:
    try:
        config = leaf.config()
    except Exception:  # the YAML is the user's: anything may be wrong with it
        return True
    # What lm-eval assumes of a task that does not say.
    return "class" in config or config.get("output_type", GENERATING) == GENERATING
