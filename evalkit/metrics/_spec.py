"""What a metric file declares: token metrics name statistics, probes measure a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import VariantError
from evalkit.records import Direction, Measurement

if TYPE_CHECKING:
    from evalkit.models.layer_format import LayerFormat
    from evalkit.models.unpacked import Unpacked

Columns = Mapping[str, NDArray[np.float32]]
Topic = Literal["memory", "speed"]


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
    `topic` is the word of `--only` that asks for it; the metrics of one file have one.
    `runs_model` is False for what is known of the weights alone: it holds where the KV cache is
    simulated, too.
    """

    name: str
    unit: str
    direction: Direction
    version: int
    definition: str
    per_machine: bool = True
    topic: Topic = "speed"
    runs_model: bool = True

    def measured(self, values: tuple[float, ...], convention: str, **details: Any) -> Measurement:
        """A Measurement of this metric with raw `values`."""
        return Measurement(
            metric=self.name,
            version=self.version,
            unit=self.unit,
            direction=self.direction,
            values=values,
            convention=convention,
            details=details,
        )


@dataclass(frozen=True)
class Protocol:
    """How speed and memory are probed: tokens of prompt and generation, and seconds for speed.

    `speed` are prompt and generation whose speed is measured where they are not those: the
    baseline's, with which others are compared.
    """

    prompt: int = 512
    generate: int = 64
    seconds: float = 20.0
    speed: tuple[int, int] | None = None


def _silent(done: float, total: float, unit: str) -> None:
    """Progress that nobody asked for."""


@dataclass(frozen=True)
class Probe:
    """A loaded variant and what is known about its making, handed to `measure`.

    `resident_before` is the process's resident set in bytes just before loading, `seconds` holds
    the time of "load" and, where a checkpoint was made, "quantize". `formats` are the kinds of
    quantized layers that `model` may hold. `load_peaks` are the peaks of memory while it loaded, by
    the name of their counter; `files` says whether its files were in the page cache before ("warm",
    "partly cold", "cold", "unknown"). `advance` is called with what is done, of how much, and
    the unit, by a measurement that takes longer than a second. `unpacked` says what the plain
    weights of `model` were unpacked from, where the variant is held and run otherwise.
    """

    model: Any
    device: str
    kernel: str
    protocol: Protocol
    resident_before: int
    seconds: Mapping[str, float]
    formats: tuple[LayerFormat, ...] = ()
    load_peaks: Mapping[str, float] = field(default_factory=dict)
    files: str = "unknown"
    advance: Callable[[float, float, str], None] = _silent
    unpacked: Unpacked | None = None

    def check_runs_here(self) -> None:
        """Raise VariantError where `model` is not what runs the variant, so nothing is its own."""
        if self.unpacked is not None:
            raise VariantError(self.unpacked.why)
