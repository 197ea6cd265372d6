"""What the parent hands to a worker process: plain records that pickle, no open handles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evalkit.metrics._spec import Protocol
from evalkit.models.resolve import Checkpoint
from evalkit.records import Environment, Model, Run, Variant

NOISE_VERSION = 1
TASK_VERSION = 1
Kind = Literal["probes", "texts", "task"]


@dataclass(frozen=True)
class Part:
    """One run to be made: speed and memory probes, all texts, or one task.

    `needed` lists the (metric, version) pairs that make it whole. `share` (number, of how many)
    is a share of the texts' windows that another process scores; the whole part puts all shares
    together, and scores what they lack.
    """

    kind: Kind
    run: Run
    needed: tuple[tuple[str, int], ...]
    baseline: str = ""
    share: tuple[int, int] | None = None

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
    """How the work is done; none of it changes what a number means."""

    batch_tokens: int
    protocol: Protocol
    allow_pickle: bool = False
    trust_remote_code: bool = False
    allow_overlap: bool = False
    offline: bool = False
    data: Path | None = None
    include_path: Path | None = None
    allow_code: bool = False


@dataclass(frozen=True)
class VariantJob:
    """Everything a worker needs to measure one variant.

    `sources` are the text files or datasets of the suite, `windows` the key of their tokenised
    form, `reference` that of the baseline's hidden states; `is_baseline` makes the reference.
    `divergence` is False where this variant or the baseline runs in a server, which gives no
    distributions; `serve` is the command that starts the server. `mirror` is the URL of
    which `store` is the copy of the machine that made the plan.
    """

    store: Path
    model: Model
    checkpoint: Checkpoint
    variant: Variant
    device: str
    environment: Environment
    settings: Settings
    parts: tuple[Part, ...]
    sources: tuple[str, ...] = ()
    limit: int | None = None
    windows: str = ""
    reference: str = ""
    is_baseline: bool = False
    seed: int = 0
    calibration: str = ""
    divergence: bool = True
    serve: str = ""
    mirror: str = ""
