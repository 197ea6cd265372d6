"""A run: one variant of one model on one part of a suite, with its raw measurements."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from evalkit.displayable import Displayable
from evalkit.records.suite import Suite
from evalkit.records.variant import Variant

Direction = Literal["lower", "higher", "none"]
Status = Literal["ok", "failed", "out_of_memory", "interrupted", "running"]


@dataclass(frozen=True)
class Measurement:
    """One metric of one run. Raw values are kept; summaries are derived from them.

    `values` are inline raw samples (speed repetitions, byte counts) with optional `weights` and
    `units` (ids of window, document or item). Larger raw data lies in the Parquet file `table`
    (relative to the store) and `values` is empty. `convention` says how it was measured in words.
    Speed and memory hold on the `machine` they were measured on; a divergence holds against the
    run `baseline`.
    """

    metric: str
    version: int
    unit: str
    direction: Direction
    values: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    units: tuple[str, ...] = ()
    table: str | None = None
    convention: str = ""
    machine: str | None = None
    baseline: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """Where a run was made: machine, device and library versions."""

    machine: str
    device: str
    threads: int
    python: str
    platform: str
    packages: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """What is evaluated. `identity` is the content of the checkpoint's files, not its path."""

    name: str
    identity: str
    parameters: int = 0
    architecture: str = ""
    weights: str = "checkpoint"


@dataclass(frozen=True)
class Cost:
    """What a part asked of the machine, and the `seconds` it took once the variant was loaded.

    `operations` are those of its matrix products, `bytes` those of weights and logits that it
    reads; `kind` is that of the part. Both are counted, not measured, so that the time
    of another part can be told from them.
    """

    kind: str
    operations: float
    bytes: float
    seconds: float = 0.0


@dataclass(frozen=True, repr=False)
class Run(Displayable):
    """One variant of one model on one suite, with its measurements, environment and status.

    `cost` is known of a part that was measured in one go.
    """

    id: str
    model: Model
    variant: Variant
    suite: Suite
    status: Status
    message: str = ""
    kernel: str = ""
    environment: Environment | None = None
    measurements: tuple[Measurement, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = ""
    cost: Cost | None = None

    def measurement(
        self, metric: str, machine: str | None = None, baseline: str = ""
    ) -> Measurement | None:
        """The measurement named `metric`, or None: not measured is never zero.

        `machine` and `baseline` choose among several where speed was measured on several machines
        or a divergence against several baselines; the newest is taken where they are not given.
        """
        found = [
            m
            for m in self.measurements
            if m.metric == metric
            and (machine is None or m.machine in (None, machine))
            and (not baseline or m.baseline in ("", baseline))
        ]
        return found[-1] if found else None
