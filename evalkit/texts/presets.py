"""Suites by name: each is a readable YAML file in presets/ with texts, tasks, limits and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evalkit.demo_data import demo_directory
from evalkit.errors import unknown
from evalkit.records import TaskSlice

DEMO_PREFIX = "demo:"
_FOLDER = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Preset:
    """A named suite before it is read: sources of texts, window convention, tasks.

    `texts` are sources for `evalkit.texts.documents.load_text`; `reasons` says for each task why it
    is part of the suite.
    """

    name: str
    summary: str
    texts: tuple[str, ...]
    convention: str
    context: int
    tasks: tuple[TaskSlice, ...]
    reasons: dict[str, str]


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_preset(name: str) -> Preset:
    """The preset called `name`; raises UsageError with a suggestion where there is none.

    Texts written `demo:FILE` lie in the demo data; raises DataError where that is missing.
    """
    if name not in preset_names():
        raise unknown("suite", name, preset_names())
    content = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    tasks: list[dict[str, Any]] = content["tasks"]
    return Preset(
        name=name,
        summary=content["summary"],
        texts=tuple(_source(text) for text in content["texts"]),
        convention=content["convention"],
        context=content["context"],
        tasks=tuple(TaskSlice(t["name"], t.get("shots"), t.get("limit")) for t in tasks),
        reasons={task["name"]: task["why"] for task in tasks},
    )


def _source(text: str) -> str:
    if text.startswith(DEMO_PREFIX):
        return str(demo_directory() / text.removeprefix(DEMO_PREFIX))
    return text
