"""lm-eval's tasks by name, from a data folder or the hub, one failure never stopping the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, EvalkitError
from evalkit.network import hub_answers
from evalkit.records import TaskSlice
from evalkit.tasks import lm_eval_task
from evalkit.tasks.code import refuse_code
from evalkit.tasks.data import (
    DataFile,
    Served,
    data_folder,
    looked_for,
    serve,
    serve_local_files,
)
from evalkit.tasks.lm_eval_errors import explain
from evalkit.tasks.lm_eval_index import Leaf, Registry, TaskGroup, build_task, open_registry
from evalkit.tasks.rows import as_dataset
from evalkit.texts.offline import network_forbidden


@dataclass(frozen=True)
class LoadedTask:
    """One task ready to be asked: lm-eval's object and everything that fixes its prompts.

    `asked` is the name the user gave (a task, group or tag); `source` is the hub dataset or the
    folder the data came from; `notes` say what differs from the task's own YAML. `chosen` are the
    documents where not all of them are evaluated.
    """

    name: str
    asked: str
    task: Any
    shots: int
    limit: int | None
    seed: int
    source: str
    files: tuple[DataFile, ...] = ()
    notes: tuple[str, ...] = ()
    chosen: tuple[dict[str, Any], ...] | None = field(default=None, repr=False, compare=False)

    @property
    def output_type(self) -> str:
        """multiple_choice, loglikelihood, loglikelihood_rolling or generate_until."""
        return str(self.task.OUTPUT_TYPE)

    @property
    def version(self) -> str:
        """The version the task's YAML gives itself."""
        return str(self.task.VERSION)

    @property
    def split(self) -> str:
        """The split that is evaluated."""
        return lm_eval_task.evaluated_split(self.task)

    @cached_property
    def documents(self) -> list[dict[str, Any]]:
        """The evaluated documents, after the task's own processing."""
        if self.chosen is not None:
            return list(self.chosen)
        return lm_eval_task.documents(self.task, self.limit, self.seed)

    def only(self, numbers: Iterable[int]) -> LoadedTask:
        """The task with the documents of these numbers alone, in this order."""
        chosen = tuple(self.documents[number] for number in numbers)
        return dataclasses.replace(self, chosen=chosen)


@dataclass(frozen=True)
class TaskFailure:
    """A task that cannot be run, and why, in one line."""

    name: str
    message: str


@dataclass(frozen=True)
class LoadedTasks:
    """What became of the names asked for: tasks, failures, and the groups among them."""

    tasks: tuple[LoadedTask, ...]
    failures: tuple[TaskFailure, ...]
    groups: tuple[TaskGroup, ...]


@dataclass(frozen=True)
class _Settings:
    registry: Registry
    root: Path | None
    offline: bool
    seed: int
    allow_code: bool


def load_tasks(
    names: Sequence[TaskSlice],
    *,
    data: Path | None = None,
    include_path: Sequence[Path] = (),
    offline: bool = False,
    seed: int = 0,
    allow_code: bool = False,
) -> LoadedTasks:
    """Load tasks, groups, tags, patterns (`mmlu_*`) and YAML files of lm-eval by name.

    Data come from local files the YAML names, else from the folder `data` (or $EVALKIT_DATA) and
    then never from the network, else from the Hugging Face cache or, unless `offline`, the hub.
    A task that cannot be loaded becomes a failure; the others go on. Raises DataError only for
    a `data` or `include_path` that does not exist. Without `allow_code` a task whose own YAML would
    run Python (tasks/code.py), or that runs what the model writes, is such a failure.
    """
    registry = open_registry([one.name for one in names], include_path, allow_code=allow_code)
    settings = _Settings(registry, data_folder(data), offline, seed, allow_code)
    tasks: dict[str, LoadedTask] = {}
    failures: list[TaskFailure] = []
    groups: dict[str, TaskGroup] = {}
    for one in names:
        try:
            leaves, found = registry.expand(one.name)
        except EvalkitError as error:
            failures.append(TaskFailure(one.name, str(error)))
            continue
        groups |= {group.name: group for group in found}
        failed = []
        for leaf in leaves:
            try:
                _add(tasks, _load(leaf, one, settings))
            except EvalkitError as error:
                failed.append(TaskFailure(leaf.task_name, str(error)))
        failures += _summed_up(one.name, failed, len(leaves))
    return LoadedTasks(tuple(tasks.values()), tuple(failures), tuple(groups.values()))


def _summed_up(asked: str, failed: list[TaskFailure], of: int) -> list[TaskFailure]:
    """One line for a group of which no task can be loaded; else a line per task."""
    if len(failed) < max(2, of):
        return failed
    first = failed[0]
    return [
        TaskFailure(asked, f"none of its {of} tasks can be loaded; {first.name}: {first.message}")
    ]


def _add(tasks: dict[str, LoadedTask], task: LoadedTask) -> None:
    """Add a task; one asked for twice counts once, unless the settings differ."""
    before = tasks.setdefault(task.name, task)
    if (before.shots, before.limit) != (task.shots, task.limit):
        raise DataError(
            f"task {task.name!r} is asked for twice, with {before.shots} and {task.shots} shots "
            f"and limits {before.limit} and {task.limit}: name it once"
        )


def _load(leaf: Leaf, one: TaskSlice, settings: _Settings) -> LoadedTask:
    try:
        config = leaf.config()
        if not settings.allow_code:
            refuse_code(leaf.task_name, leaf.path)
    except EvalkitError:
        raise
    except Exception as error:  # the YAML is the user's: anything may be wrong with it
        raise DataError(explain(leaf.task_name, leaf.path, error)) from error
    _refuse(leaf.task_name, config, settings.allow_code)
    served = _serve(leaf, config, settings)
    with network_forbidden(settings.offline or served is not None or not hub_answers()):
        task = _build(leaf, config, served, settings)
    rolling = task.OUTPUT_TYPE == "loglikelihood_rolling"
    shots = lm_eval_task.set_shots(task, 0 if rolling else one.shots, settings.seed)
    notes = _split_notes(task, config, served, shots)
    if one.shots is not None and one.shots != shots:
        why = "a rolling perplexity takes none" if rolling else "the task fixes the number"
        notes.append(f"{shots} shots, not {one.shots}: {why}")
    return LoadedTask(
        name=leaf.task_name,
        asked=one.name,
        task=task,
        shots=shots,
        limit=one.limit,
        seed=settings.seed,
        source=_source(config, served, task),
        files=served.files if served else (),
        notes=tuple(notes),
    )


def _refuse(name: str, config: Mapping[str, Any], allow_code: bool) -> None:
    """Refuse what must not or cannot run, before any of the task's code is imported."""
    if config.get("unsafe_code") and not allow_code:
        raise DataError(
            f"task {name!r} runs code the model writes, on this machine: "
            "allow it with --allow-code, in a container"
        )
    for key in ("doc_to_image", "doc_to_audio"):
        if config.get(key):
            raise DataError(f"task {name!r} needs a model that takes {key[7:]}: text only here")


def _serve(leaf: Leaf, config: Mapping[str, Any], settings: _Settings) -> Served | None:
    beside = leaf.path.parent if leaf.path else None
    local = serve_local_files(config, beside)
    if local is not None or settings.root is None:
        return local
    name = leaf.task_name
    served = serve(settings.root, name, config, leaf.groups, settings.registry.dataset)
    if served is None:
        raise DataError(_missing(leaf, config, settings, "the data folder has none"))
    return served


def _missing(leaf: Leaf, config: Mapping[str, Any], settings: _Settings, why: str) -> str:
    file, name = looked_for(settings.root, leaf.task_name, config), leaf.task_name
    out = "DIR" if settings.root is None else _above(settings.root)
    return (
        f"no data for task {name!r} ({why}): looked for {file}; "
        f"get it with `evalkit data pull {name} --out {out}` and pass --data {out}"
    )


def _above(root: Path) -> Path:
    return root.parent if root.name == "tasks" else root


def _build(
    leaf: Leaf, config: Mapping[str, Any], served: Served | None, settings: _Settings
) -> Any:
    splits = None
    if served is not None:
        files = {file.split: file.path for file in served.files}
        splits = {name: as_dataset(rows, files[name]) for name, rows in served.splits.items()}
    try:
        with lm_eval_task.settled(settings.seed):
            return build_task(leaf, served.overrides if served else {}, splits)
    except EvalkitError:
        raise
    except Exception as error:  # YAML, its Python and the hub: anything may be wrong with them
        if served is None and _is_absent(error):
            raise DataError(_missing(leaf, config, settings, _why(error, settings))) from error
        where = f" with {served.files[0].path}" if served and served.files else ""
        raise DataError(explain(leaf.task_name, leaf.path, error) + where) from error


def _why(error: BaseException, settings: _Settings) -> str:
    """Why neither the hub nor its cache on this machine gave the data."""
    if settings.offline:
        return "offline and not in the Hugging Face cache"
    if not hub_answers():
        return "the hub does not answer, and the Hugging Face cache has none"
    return f"the hub gives none: {_first_line(error)}"


def _is_absent(error: BaseException) -> bool:
    """Whether the data could not be had, as against a fault of the task's YAML or code."""
    from datasets.exceptions import DatasetsError

    return isinstance(error, (ConnectionError, DatasetsError, FileNotFoundError))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _split_notes(
    task: Any, config: Mapping[str, Any], served: Served | None, shots: int
) -> list[str]:
    """What is said about splits: another one evaluated, another one for few-shot examples."""
    notes = []
    absent = served.absent if served else {}
    evaluated, drawn = lm_eval_task.evaluated_split(task), lm_eval_task.fewshot_split(task)
    asked = config.get("test_split") or config.get("validation_split")
    if asked in absent.values() and evaluated != asked:
        notes.append(f"evaluated on the split {evaluated}: the split {asked} is not at hand")
    if shots and drawn is not None:
        named = config.get("fewshot_split") or config.get("training_split")
        lack = f"the split {named} is not at hand" if named in absent.values() else ""
        apart = "never the item itself" if drawn == evaluated else ""
        if lack or apart:
            why = "; ".join(word for word in (apart, lack) if word)
            notes.append(f"few-shot examples come from the split {drawn}: {why}")
    return notes


def _source(config: Mapping[str, Any], served: Served | None, task: Any) -> str:
    if served is not None:
        return str(Path(served.files[0].path).parent)
    path = config.get("dataset_path") or getattr(task, "DATASET_PATH", None) or "the task's code"
    name = config.get("dataset_name")
    return f"{path}:{name}" if name else str(path)
