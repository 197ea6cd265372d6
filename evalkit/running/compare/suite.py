"""On what a comparison measures, and what: the suite, and the parts that `--only` leaves of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from evalkit.declaration import words
from evalkit.errors import UsageError
from evalkit.models.checkpoint import Checkpoint
from evalkit.options import MEASURED, CompareOptions
from evalkit.records import Suite, TaskSlice, TextSlice
from evalkit.tasks.files import task_files_hash
from evalkit.texts.documents import Text, load_texts
from evalkit.texts.presets import load_preset
from evalkit.texts.windows import check_lengths, default_context

EVERYTHING = frozenset().union(*MEASURED.values())


def wanted_parts(options: CompareOptions) -> frozenset[str]:
    """What is measured: everything, or what the words of `--only` stand for."""
    only = words(options["only"], "comma")
    return frozenset().union(*(MEASURED[word] for word in only)) if only else EVERYTHING


def check_random(options: CompareOptions) -> None:
    """Raise UsageError where random weights are asked for their quality."""
    if options["weights"] == "random" and (options["text"] or options["tasks"] or options["suite"]):
        raise UsageError(
            "--weights random has no quality to measure: leave out --text, --tasks and --suite"
        )


def choose_suite(
    options: CompareOptions, checkpoint: Checkpoint, wanted: frozenset[str] = EVERYTHING
) -> tuple[Suite, tuple[str, ...], Sequence[Text]]:
    """The suite of texts and tasks asked for, else a preset; its texts and their sources.

    Texts or tasks that are not `wanted` are left out of it, unread.
    """
    if options["weights"] == "random":
        return Suite("random weights", convention="", context=0, bos=""), (), ()
    name = options["suite"]
    if name is None and not options["text"] and not options["tasks"]:
        name = "demo" if checkpoint.name == "demo" else "quick"
    preset = load_preset(name) if name else None
    sources = words(options["text"]) or (preset.texts if preset else ())
    sources = sources if "text" in wanted else ()
    tasks = _tasks(options, preset.tasks if preset else ()) if "tasks" in wanted else ()
    convention = options["convention"] or (preset.convention if preset else "lm-eval")
    context = preset.context if preset and preset.context else default_context(convention)
    context = _context(options["context"], context, checkpoint)
    texts = load_texts(sources, limit=options["limit"], offline=options["offline"])
    check_lengths(texts, convention, context)
    suite = Suite(
        name=name or "custom",
        texts=tuple(TextSlice(t.name, t.sha256, len(t.documents)) for t in texts),
        convention=convention,
        context=context,
        tasks=tasks,
        limit=options["limit"],
        seed=options["seed"],
    )
    return suite, tuple(sources), texts


def _context(asked: int | None, default: int, checkpoint: Checkpoint) -> int:
    limit = checkpoint.positions or None
    if asked and limit and asked > limit:
        raise UsageError(
            f"--context {asked} is beyond the model's {limit} positions: give at most {limit}"
        )
    return min(asked or default, limit or 10**9)


def _tasks(options: CompareOptions, preset: Sequence[TaskSlice]) -> tuple[TaskSlice, ...]:
    """The tasks asked for, else those of the preset, with what was asked of all of them."""
    asked = [TaskSlice(name) for name in words(options["tasks"], "comma")]
    data, include_path = data_paths(options)
    return tuple(
        dataclasses.replace(
            task,
            shots=task.shots if options["shots"] is None else options["shots"],
            limit=task.limit if options["limit"] is None else options["limit"],
            chat=options["chat"],
            system=options["system"],
            chat_arguments=words(options["chat_template_args"], "comma"),
            data=task_files_hash(task.name, data, include_path),
        )
        for task in asked or preset
    )


def data_paths(options: CompareOptions) -> tuple[Path | None, Path | None]:
    """The folders of task data ($EVALKIT_DATA by default) and of task YAMLs."""
    data = options["data"] or os.environ.get("EVALKIT_DATA")
    include_path = options["include_path"]
    return (
        None if data is None or data == "" else Path(data),
        None if include_path is None else Path(include_path),
    )
