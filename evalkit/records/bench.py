"""The nouns of `evalkit bench`: plain frozen records like those of evalkit.records.

A quantity that was not measured, or that a card does not offer, is None, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from evalkit.displayable import Displayable
from evalkit.records import Environment, Model, Status

Phase = Literal["prefill", "decode"]


@dataclass(frozen=True)
class MachineRates:
    """What the machine can do at most, measured once by a short probe.

    `bandwidth` is bytes/s of reading memory; `flops` maps a dtype ("float16", "int8") to
    operations/s of a large matrix product. `method` says in words how both were measured.
    """

    machine: str
    bandwidth: float
    flops: dict[str, float] = field(default_factory=dict)
    method: str = ""


@dataclass(frozen=True)
class BenchPoint:
    """One variant in one phase at one batch size and context.

    `samples` are tokens/s of all sequences together, one a repetition; `tokens_per_second` is
    their median with the interval [`low`, `high`]. Latencies are milliseconds: time to first
    token in prefill, between tokens in decode. `bytes_per_step` and `flops_per_step` are what one
    pass must read and compute; the utilizations are their rates over the machine's. `rounds` are
    the medians of the processes that measured it, in turn with the other variants'. For a served
    engine `batch_size` is the number of requests at once.
    """

    variant: str
    resolved: str
    status: Status
    phase: Phase
    batch_size: int
    context: int
    engine: str = ""
    kernel: str = ""
    message: str = ""
    samples: tuple[float, ...] = ()
    rounds: tuple[float, ...] = ()
    tokens_per_second: float | None = None
    low: float | None = None
    high: float | None = None
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    latency_ms_p99: float | None = None
    latencies_ms: tuple[float, ...] = ()
    bytes_per_step: float | None = None
    flops_per_step: float | None = None
    bandwidth_utilization: float | None = None
    flops_utilization: float | None = None
    peak_memory_bytes: float | None = None
    joules_per_token: float | None = None
    preparation_seconds: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Repetitions behind the median."""
        return len(self.samples)


@dataclass(frozen=True)
class MemoryUse:
    """Bytes a variant holds at one batch size and context, measured, and the plan's prediction.

    `weights` are bytes by category (packed, scales, zeros, rest); `peaks` are bytes by stage and
    counter ("load allocated", "prefill reserved", "decode used"); `planned` is the total of
    `evalkit plan` for the same setting.
    """

    variant: str
    batch_size: int
    context: int
    weights: dict[str, float] = field(default_factory=dict)
    kv_cache: float | None = None
    peaks: dict[str, float] = field(default_factory=dict)
    planned: float | None = None


@dataclass(frozen=True)
class SoakSample:
    """One interval of sustained load; None where the machine does not offer a sensor."""

    seconds: float
    tokens_per_second: float
    watts: float | None = None
    celsius: float | None = None
    clock_mhz: float | None = None
    throttle: tuple[str, ...] = ()


@dataclass(frozen=True)
class Soak:
    """Sustained decode: did the speed hold, when did throttling begin, when was it steady?

    `first` and `last` are tokens/s of the first and the last tenth.
    """

    variant: str
    batch_size: int
    samples: tuple[SoakSample, ...]
    first: float
    last: float
    held: bool
    throttled_after: float | None = None
    throttled_by: tuple[str, ...] = ()
    steady_after: float | None = None


@dataclass(frozen=True)
class Speculation:
    """Speculative decoding of `target` with `draft`: measured, and predicted from 1 - TV.

    Greedy, batch 1, `prompts` prompts with `tokens` generated tokens in all. `accepted` is the
    share of the drafted tokens that the target looked at and kept (behind the first refused token
    it looks at none), `tokens_per_pass` the tokens a pass of the target yields, `speedup` that
    over plain decode of the target on the same prompts with its 95 % interval over prompts.
    `lossless` says that all tokens equal those of plain decode; of the `differing` prompts, `ties`
    differ first where rounding decides: the two tokens are closer than passes of one and of
    several tokens differ elsewhere.

    `sampled_accepted` is the acceptance rate of speculative sampling at temperature 1 on text of
    the target's own; `predicted_accepted`, 1 - total variation from the quality pass, predicts
    it. `agreement`, the top-1 agreement of that pass, is what it says about greedy decoding.
    `predicted_tokens_per_pass` is (1 - a^(g+1)) / (1 - a), `predicted_speedup` that over g·c + 1,
    c the measured cost of a step of the draft in steps of the target (Leviathan et al. 2023).
    """

    target: str
    draft: str
    draft_tokens: int
    accepted: float
    tokens_per_pass: float
    speedup: float
    lossless: bool
    tokens: int
    predicted_accepted: float | None = None
    predicted_tokens_per_pass: float | None = None
    predicted_speedup: float | None = None
    prompts: int = 0
    speedup_low: float | None = None
    speedup_high: float | None = None
    differing: int = 0
    ties: int = 0
    agreement: float | None = None
    sampled_accepted: float | None = None
    plain_tokens_per_second: float | None = None
    draft_cost: float | None = None
    prompt: int = 0


@dataclass(frozen=True, repr=False)
class Bench(Displayable):
    """Speed, memory and energy of variants of one model on one machine.

    `knee` maps a variant to the batch size beyond which throughput gains less than 5 % for 25 %
    more sequences.
    """

    model: Model
    rates: MachineRates | None
    points: tuple[BenchPoint, ...]
    prompt: int
    generate: int
    knee: dict[str, int] = field(default_factory=dict)
    memory: tuple[MemoryUse, ...] = ()
    soaks: tuple[Soak, ...] = ()
    speculation: tuple[Speculation, ...] = ()
    environment: Environment | None = None
    notes: tuple[str, ...] = ()
    store: str = ""
    command: str = ""
