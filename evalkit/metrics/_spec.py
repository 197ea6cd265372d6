"""What a metric file declares: token metrics name statistics, probes measure a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalkit.records import Direction

Columns = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class TokenMetric:
    """A metric folded from per-token values.

    `needs` are statistics of the scoring engine (nll, kl, tv, delta_p, same_top1, …); `values`
    maps them to one value a token, stored under `column`; `summary` says how the values become
    one number: "mean", "exp_mean", "rms", "max", or "p50", "p99.9" for percentiles. Metrics that
    share a column share its storage.
    """

    name: str
    unit: str
    direction: Direction
    version: int
    needs: tuple[str, ...]
    column: str
    values: Callable[[Columns], NDArray[np.float32]]
    summary: str
    definition: str


@dataclass(frozen=True)
class ProbeMetric:
    """A metric measured on the loaded model by the `measure` function of the same file.

    `per_machine` marks speed and memory, which are valid on the machine they were measured on.
    """

    name: str
    unit: str
    direction: Direction
    version: int
    definition: str
    per_machine: bool = True
