"""Names of lm-eval: tasks, groups, tags, YAML files; found fast, built one task at a time.

The modules lm_eval_*.py of this folder are the only ones that use what lm-eval 0.4.13 does not
promise to keep (here `TaskFactory`): its public `TaskManager` parses 14,000 YAML files at every
start, and loads the data of a whole group or nothing.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_eval.api.group import Group
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._yaml_loader import load_yaml

from evalkit.errors import DataError, EvalkitError, did_you_mean
from evalkit.paths import expanded
from evalkit.tasks.code import refuse_code
from evalkit.tasks.lm_eval_entries import (
    Entries,
    Entry,
    Kind,
    default_entries,
    demo_paths,
    entries_below,
    entry_from_file,
)
from evalkit.tasks.lm_eval_errors import broken_files, explain, names_task


@dataclass(frozen=True)
class Leaf:
    """One task, not built yet: its registry entry, what its groups override, and those groups."""

    entry: Entry
    overrides: dict[str, Any]
    groups: tuple[str, ...] = ()

    @property
    def task_name(self) -> str:
        """The name results are reported under."""
        return str(self.overrides.get("task", self.entry.name))

    @property
    def path(self) -> Path | None:
        """The YAML file, or None for a task written inside a group."""
        return Path(self.entry.yaml_path) if self.entry.yaml_path else None

    def config(self) -> dict[str, Any]:
        """The task's settings; functions stay unresolved, so none of its code is imported."""
        written = load_yaml(self.path, resolve_func=False) if self.path else self.entry.cfg or {}
        return {**written, **self.overrides}


@dataclass(frozen=True)
class GroupMetric:
    """A metric a group averages over its tasks: over `filters` (None: all), by size or not."""

    metric: str
    filters: tuple[str, ...] | None
    weight_by_size: bool


@dataclass(frozen=True)
class TaskGroup:
    """A group of tasks: names of all tasks below it and the metrics it averages."""

    name: str
    tasks: tuple[str, ...]
    metrics: tuple[GroupMetric, ...]


class Registry:
    """What can be asked for by name."""

    def __init__(
        self, entries: Entries, own: Sequence[Path] = (), *, allow_code: bool = False
    ) -> None:
        self.entries = entries
        self.allow_code = allow_code
        self._own = tuple(own)

    def expand(self, asked: str) -> tuple[list[Leaf], list[TaskGroup]]:
        """Tasks and groups behind a task, group, tag, pattern (`mmlu_*`) or YAML file.

        Raises DataError for an unknown name and for a file that cannot be read.
        """
        if any(sign in asked for sign in "*?["):
            names = sorted(fnmatch.filter(self.entries, asked))
            leaves = [leaf for name in names for leaf in self._of(self.entries[name])[0]]
            if leaves:
                return list({leaf.task_name: leaf for leaf in leaves}.values()), []
        entry = self.entries.get(asked) or self._from_file(asked)
        if entry is None:
            raise DataError(self._unknown(asked))
        return self._of(entry)

    def dataset(self, name: str) -> tuple[str, str] | None:
        """Hub path and configuration of task `name`; None where `name` is no task with one."""
        entry = self.entries.get(name)
        if entry is None or entry.kind is not Kind.TASK:
            return None
        return dataset_of(Leaf(entry, {}).config())

    def _of(self, entry: Entry) -> tuple[list[Leaf], list[TaskGroup]]:
        try:
            factory = _LeafFactory(self.allow_code)
            built = factory.build(entry, overrides=None, registry=self.entries)
        except EvalkitError:
            raise
        except Exception as error:  # the YAML is the user's: anything may be wrong with it
            raise DataError(explain(entry.name, Leaf(entry, {}).path, error)) from error
        if isinstance(built, Group):
            groups: list[TaskGroup] = []
            return _walk(built, (), groups), groups
        return (built if isinstance(built, list) else [built]), []

    def _from_file(self, asked: str) -> Entry | None:
        if not asked.endswith((".yaml", ".yml")):
            return None
        path = expanded(asked)
        if not path.is_file():
            raise DataError(f"task file {asked} does not exist")
        try:
            entry = entry_from_file(path)
        except Exception as error:  # as above
            raise DataError(explain(asked, path, error)) from error
        if entry is None:
            raise DataError(f"{asked}: no 'task' or 'group' is named; add the line `task: NAME`")
        return entry

    def _unknown(self, asked: str) -> str:
        broken = broken_files(self._own)
        for path, problem in broken.items():
            if path.stem == asked or names_task(path, asked):
                return f"task {asked!r}: {problem}"
        more = f"; {next(iter(broken.values()))}" if broken else ""
        hint = did_you_mean(asked, self.entries)
        return (
            f"unknown task {asked!r} among {len(self.entries)} tasks, groups and tags{hint}{more}"
        )


def open_registry(
    names: Iterable[str], include_path: Sequence[Path] = (), *, allow_code: bool = False
) -> Registry:
    """The tasks at hand: own YAML folders or files first, then the demo's, then lm-eval's.

    lm-eval's own index is left out when every name is a task of the others: it costs a second.
    """
    entries = {**entries_below(demo_paths()), **entries_below(include_path)}
    found = [entries.get(name) for name in names]
    if not all(entry is not None and entry.kind is Kind.TASK for entry in found):
        entries = {**default_entries(), **entries}
    return Registry(entries, include_path, allow_code=allow_code)


def build_task(
    leaf: Leaf,
    overrides: Mapping[str, Any],
    splits: Mapping[str, Any] | None,
) -> Any:
    """lm-eval's own task object, with the datasets `splits` in place of its download.

    With `splits` None the task loads its data itself. Raises whatever the task's YAML and code
    raise; see `explain`.
    """
    changed = {**leaf.overrides, **overrides}
    factory = TaskFactory()
    if splits is not None:
        served = dict(splits)
        changed |= {"custom_dataset": lambda **_: served, "dataset_kwargs": None}
        written = factory._load_full_config(leaf.entry, changed)
        if "class" in written:
            changed["class"] = _served_class(written["class"], served)
    return factory._build_task(leaf.entry, changed)


def dataset_of(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Hub path and configuration named in a task's settings, or None."""
    path = config.get("dataset_path")
    return (str(path), str(config.get("dataset_name") or "")) if path else None


class _LeafFactory(TaskFactory):
    """lm-eval's expansion of groups and tags, with the building of each task put off."""

    def __init__(self, allow_code: bool) -> None:
        super().__init__()
        self._allow_code = allow_code

    def _load_full_config(
        self, entry: Entry, overrides: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        if not self._allow_code and entry.yaml_path:
            refuse_code(entry.name, Path(entry.yaml_path))
        return dict(super()._load_full_config(entry, overrides))

    def _build_task(self, entry: Entry, overrides: dict[str, Any] | None) -> Leaf:
        return Leaf(entry, dict(overrides or {}))

    def _build_group_members(
        self,
        member_list: list[Any],
        group_name: str,
        overrides: dict[str, Any] | None,
        registry: Entries,
    ) -> list[Any]:
        """Register tasks written inside the group, which lm-eval would build at once."""
        members = []
        for item in member_list:
            written = isinstance(item, dict) and "group" not in item
            name = item.get("task") if written else item
            if not isinstance(name, str) or name in registry:
                members.append(item)
                continue
            if not written:
                raise KeyError(f"group {group_name!r} names the unknown task {name!r}")
            inline = {**item, "task": f"{group_name}::{name}"}
            registry[inline["task"]] = Entry(inline["task"], Kind.TASK, None, cfg=inline)
            members.append(inline)
        built = super()._build_group_members(members, group_name, overrides, registry)
        return list(built)


def _walk(group: Group, above: tuple[str, ...], groups: list[TaskGroup]) -> list[Leaf]:
    """Leaves of `group`, each with its groups (nearest first); adds to `groups`, inner first."""
    leaves: list[Leaf] = []
    parents = (str(group.name), *above)
    for child in group:
        if isinstance(child, Group):
            leaves += _walk(child, parents, groups)
        else:
            leaves.append(replace(child, groups=parents))
    metrics = tuple(
        GroupMetric(m.metric, tuple(m.filter_list) if m.filter_list else None, m.weight_by_size)
        for m in group.aggregate_metric_list or []
    )
    groups.append(TaskGroup(parents[0], tuple(leaf.task_name for leaf in leaves), metrics))
    return leaves


def _served_class(kind: type, splits: Mapping[str, Any]) -> type:
    """A task written as a Python class, with its download replaced by `splits`."""

    def download(self: Any, *_: Any, **__: Any) -> None:
        self.dataset = splits

    return type(kind.__name__, (kind,), {"download": download})
