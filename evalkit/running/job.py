"""A job: one variant, the parts of it still to be measured, and how. It pickles; nothing is open.

Jobs are made in evalkit.running.build_job.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evalkit.metrics import Protocol, Topic
from evalkit.models.checkpoint import Checkpoint
from evalkit.records import Environment, Model, Run, Variant

NOISE_VERSION = 1
DECOMPOSED_VERSION = 1
# 2: LLM.int8() shares what prompts begin with, and questions lie side by side in a row.
TASK_VERSION = 2
ANSWERS_VERSION = 1
Kind = Literal["memory", "speed", "texts", "task", "answers"]
PROBES: tuple[Topic, ...] = ("memory", "speed")


@dataclass(frozen=True)
class Stopping:
    """When the tasks of a variant may stop: as soon as their loss is told from `margin`.

    `answered` are the ids of the baseline's runs of all tasks, with whose answers they are paired.
    """

    margin: float
    answered: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """One run to be made: memory or speed of the loaded variant, all texts, one task, or answers.

    `needed` lists the (metric, version) pairs that make it whole. `share` (number, of how many)
    is a share of the texts' windows that another process scores; the whole part puts all shares
    together, and scores what they lack. `stopping` is set where a task need not be asked whole.
    """

    kind: Kind
    run: Run
    needed: tuple[tuple[str, int], ...]
    baseline: str = ""
    share: tuple[int, int] | None = None
    stopping: Stopping | None = None

    @property
    def name(self) -> str:
        """The part in words: its task, "texts", "memory" or "speed"."""
        return self.run.suite.tasks[0].name if self.kind == "task" else self.kind

    @property
    def is_probe(self) -> bool:
        """Whether the variant itself is looked at and timed, and not what it makes of a text."""
        return self.kind in PROBES

    def missing(self, stored: Run | None, machine: str | None) -> tuple[str, ...]:
        """Metrics of `needed` that `stored` lacks at their present version."""
        if stored is None:
            return tuple(metric for metric, _ in self.needed)
        found = {
            (m.metric, m.version)
            for m in stored.measurements
            if m.machine in (None, machine) and m.baseline in ("", self.baseline)
        }
        return tuple(metric for metric, version in self.needed if (metric, version) not in found)


@dataclass(frozen=True)
class Settings:
    """How the work is done. A backend names those that change its numbers (`run_settings`).

    `until_decided` is the margin at which tasks stop, None where they are asked whole; with
    `decompose` the weights of a variant are scored apart from its kernel.
    """

    batch_tokens: int
    protocol: Protocol = field(default_factory=Protocol)
    allow_pickle: bool = False
    trust_remote_code: bool = False
    allow_overlap: bool = False
    offline: bool = False
    data: Path | None = None
    include_path: Path | None = None
    allow_code: bool = False
    until_decided: float | None = None
    decompose: bool = False


@dataclass(frozen=True)
class Subject:
    """What is evaluated and where: the same for every variant of a command.

    `device` is "cpu" or "cuda", of which a process sees one card: `gpu` is its word in
    CUDA_VISIBLE_DEVICES, "" for a CPU. `notes` are lines worth showing before anything starts, such
    as why this model was chosen.
    """

    model: Model
    checkpoint: Checkpoint
    device: str
    store: Path
    environment: Environment
    settings: Settings
    seed: int = 0
    notes: tuple[str, ...] = ()
    gpu: str = ""


@dataclass(frozen=True)
class Job:
    """Everything a worker needs to measure one variant.

    `device` and `gpu` are the subject's. `content` identifies weights that are not made from the
    model's (a checkpoint's own, a server's), `calibration` the samples a method is calibrated on,
    `refusal` says why the variant cannot be run, `notes` what was chosen for it. `sources` are the
    text files or datasets of the suite, `windows` the key of their tokenised form, `reference` that
    of the baseline's hidden states; `is_baseline` makes the reference. `divergence` is False where
    this variant or the baseline gives no distributions; `serve` is the command that starts its
    server. `mirror` is the URL of which `store` is the copy of the machine that made the plan.
    """

    store: Path
    model: Model
    checkpoint: Checkpoint
    variant: Variant
    device: str
    environment: Environment
    settings: Settings
    seed: int = 0
    content: str = ""
    calibration: str = ""
    refusal: str = ""
    notes: tuple[str, ...] = ()
    serve: str = ""
    sources: tuple[str, ...] = ()
    limit: int | None = None
    parts: tuple[Part, ...] = ()
    windows: str = ""
    reference: str = ""
    is_baseline: bool = False
    divergence: bool = True
    mirror: str = ""
    gpu: str = ""

    @property
    def visible(self) -> str | None:
        """The word of the cards for its process: its own, but all of them for a server's tensors.

        None shows those that the command sees.
        """
        return None if self.serve else self.gpu
