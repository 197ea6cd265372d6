"""What a comparison would do: `--dry-run`, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evalkit.displayable import Displayable
from evalkit.records.run import Model
from evalkit.records.suite import Suite

DryRunStatus = Literal["to measure", "measured before", "cannot run"]


@dataclass(frozen=True)
class Duration:
    """Seconds to expect, within `factor` either way, and what they were told from."""

    seconds: float
    factor: float
    source: str


@dataclass(frozen=True)
class Step:
    """One thing that takes time, and how long."""

    name: str
    time: Duration


@dataclass(frozen=True)
class TextCounts:
    """Windows of the texts, their tokens, how many of those are scored, and what is kept of them.

    `left_out` tokens of the texts stand in no window. `reference_bytes` are those of the baseline's
    hidden states on disk.
    """

    windows: int
    tokens: int
    scored: int
    left_out: int
    reference_bytes: int


@dataclass(frozen=True)
class DryRunRow:
    """One variant: what is left to do, the memory it needs in bytes, and its steps.

    `message` says why a variant cannot run. `memory` is None where it is not known, as of a server
    or an architecture that cannot be planned.
    """

    variant: str
    resolved: str
    status: DryRunStatus
    message: str = ""
    remaining: tuple[str, ...] = ()
    memory: float | None = None
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, repr=False)
class DryRun(Displayable):
    """The plan of a comparison in numbers.

    `checkpoint` is the model's directory, `weight_bytes` its files. `memory_free` and
    `memory_total` are bytes of the device, now; a variant's memory holds at batch 1 and `context`
    tokens. `disk_bytes` are written to the store: the baseline's hidden states and the checkpoints
    that are slow to make. `preparing` is what comes before the first variant; `time` is all of it,
    None where nothing is left or `time_unknown` says why, and `finish` the time of day when it
    ends (ISO 8601). `shares` are those in which a Ray cluster scores the texts, 0 without one.
    """

    model: Model
    checkpoint: str
    weight_bytes: int
    device: str
    machine: str
    memory_free: int
    memory_total: int
    disk_bytes: int
    context: int
    suite: Suite
    store: str
    rows: tuple[DryRunRow, ...]
    texts: TextCounts | None = None
    preparing: tuple[Step, ...] = ()
    time: Duration | None = None
    time_unknown: str = ""
    finish: str = ""
    notes: tuple[str, ...] = ()
    shares: int = 0
