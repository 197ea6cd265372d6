"""One round of one variant, in a process of its own: load, sweep batches and contexts, measure."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from evalkit.analysis.sweep import next_batch
from evalkit.errors import VariantError, is_out_of_memory
from evalkit.metrics.memory import DECODE_TOKENS, PeakMeter, named, phase_peaks
from evalkit.progress import Event, Listener
from evalkit.records.bench import SoakSample
from evalkit.running.environment import Load
from evalkit.running.job import Job
from evalkit.running.process import stop_if_asked
from evalkit.running.sensors import Reading, Sensors, energy, long_enough, open_sensors
from evalkit.running.session import LoadedSession

# A point is repeated at least twice, and no further once it has taken this long.
POINT_SECONDS = 20.0
KEPT_LATENCIES = 2000
SOAK_INTERVAL = 1.0
# A CPU has no out-of-memory error: a sweep ends before the kernel ends the process.
SPARE = 1.25


@dataclass(frozen=True)
class RoundJob:
    """What one process measures: batches at the prompt's length (None: sweep), and contexts.

    `engine` is a word of the command line; `soak` is seconds of sustained load at `soak_batch`.
    """

    job: Job
    engines: tuple[str, ...]
    prompt: int
    generate: int
    repetitions: int
    batches: tuple[int, ...] | None
    contexts: tuple[int, ...]
    most: int
    soak: float = 0.0
    soak_batch: int = 1


@dataclass(frozen=True)
class PhaseResult:
    """Raw values of one phase of one point in one round."""

    phase: str
    batch: int
    context: int
    status: str = "ok"
    message: str = ""
    engine: str = ""
    samples: tuple[float, ...] = ()
    latencies: tuple[float, ...] = ()
    peak: float | None = None
    joules_per_token: float | None = None
    preparation: float = 0.0
    differs_at: int | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RoundResult:
    """Everything one process found; plain values that are stored as JSON."""

    kernel: str
    notes: tuple[str, ...]
    weights: dict[str, float]
    load_peaks: dict[str, float]
    phases: tuple[PhaseResult, ...]
    kv_cache: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, dict[str, float]] = field(default_factory=dict)
    soak: tuple[SoakSample, ...] = ()


def measure_round(round_: RoundJob, session: LoadedSession, send: Listener) -> RoundResult:
    """Measure every point of the loaded variant."""
    from evalkit.models.storage import weight_bytes

    job = round_.job
    meter = PeakMeter(job.device, session.resident_before)
    sizes = weight_bytes(session.model, session.loaded.formats)
    weights = {name: float(size) for name, size in sizes.items()}
    bench = _Bench(round_, session, meter, open_sensors(job.device), send)
    result = RoundResult(session.kernel, session.notes, weights, session.load_peaks, ())
    if round_.soak:
        return dataclasses.replace(result, soak=tuple(bench.soak()))
    load = Load()
    phases = tuple(bench.run())
    return dataclasses.replace(
        result,
        phases=phases,
        notes=(*session.notes, *load.notes()),
        kv_cache=bench.kv_cache,
        peaks=bench.peaks,
    )


class _Bench:
    """The loaded model and what its points left behind."""

    def __init__(
        self,
        round_: RoundJob,
        session: LoadedSession,
        meter: PeakMeter,
        sensors: Sensors,
        send: Listener,
    ) -> None:
        self.round, self.session, self.meter, self.sensors = round_, session, meter, sensors
        self.model = session.model
        self.send = send
        self.engines = round_.engines
        self.kv_cache: dict[str, float] = {}
        self.peaks: dict[str, dict[str, float]] = {}

    def run(self) -> Iterator[PhaseResult]:
        """All points: batches first, then contexts at batch 1."""
        yield from self._sweep()
        for context in self.round.contexts:
            yield from self._point(1, context)

    def _sweep(self) -> Iterator[PhaseResult]:
        measured: dict[int, float] = {}
        failed: int | None = None
        given = list(self.round.batches or ())
        while True:
            if self.round.batches is not None:
                batch = given.pop(0) if given else None
            else:
                batch = next_batch(measured, most=self.round.most, failed=failed)
            if batch is None:
                return
            for result in self._point(batch, self.round.prompt):
                yield result
                if result.status != "ok":
                    failed = batch
                elif result.phase == "decode":
                    measured[batch] = sorted(result.samples)[len(result.samples) // 2]

    def _point(self, batch: int, context: int) -> Iterator[PhaseResult]:
        """Prefill and decode at one batch and context; out of memory is a result."""
        from evalkit.scoring.halving import release_memory

        stop_if_asked()
        label = self.round.job.variant.label
        self.send(Event(label, f"batch {batch}, context {context}"))
        try:
            self._check_room(batch)
            yield from self._measure(batch, context)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            message = (str(error).strip().splitlines() or ["out of memory"])[0]
            for phase in ("prefill", "decode"):
                yield PhaseResult(phase, batch, context, "out_of_memory", message)
        except VariantError as error:
            for phase in ("prefill", "decode"):
                yield PhaseResult(phase, batch, context, "failed", str(error))
        finally:
            release_memory(self.round.job.device)

    def _check_room(self, batch: int) -> None:
        """On a CPU, end a sweep before memory does: the next point takes what the last took, and
        as much more as the batch is larger."""
        before = max((int(key.split()[0]) for key in self.peaks), default=0)
        if self.round.job.device != "cpu" or not before or batch <= before:
            return
        import psutil

        last = max(peak for key, peaks in self.peaks.items() for peak in peaks.values())
        needed = SPARE * last * (batch / before - 1)
        available = psutil.virtual_memory().available
        if needed > available:
            raise MemoryError(
                f"batch {batch} needs about {needed / 1e9:.1f} GB more and {available / 1e9:.1f} GB"
                " are available"
            )

    def _measure(self, batch: int, context: int) -> Iterator[PhaseResult]:
        from evalkit.inference.timing import random_prompts

        round_, key = self.round, f"{batch} {context}"
        ids = random_prompts(self.model, batch, context)
        prepared = self._prepare(ids, context + round_.generate)
        engine = prepared.engine
        shared = {
            "batch": batch, "context": context, "engine": engine.name,
            "preparation": prepared.seconds, "differs_at": prepared.differs_at,
        }  # fmt: skip
        peaks = phase_peaks(self.meter, engine, ids, min(DECODE_TOKENS, round_.generate))
        self.peaks[key] = named(peaks)
        counter = next(iter(peaks["prefill"]))
        seconds, joules = self._read_prompts(engine, ids)
        yield PhaseResult(
            "prefill", samples=tuple(batch * context / one for one in seconds),
            latencies=tuple(1000 * one for one in seconds),
            peak=peaks["prefill"][counter], joules_per_token=joules, **shared,
        )  # fmt: skip

        runs, joules = self._decode(engine, ids)
        self.kv_cache[key] = _cache_bytes(engine)
        latencies = [1000 * step for steps in runs for step in steps]
        yield PhaseResult(
            "decode", samples=tuple(batch * len(steps) / sum(steps) for steps in runs),
            latencies=tuple(latencies[:KEPT_LATENCIES]),
            peak=peaks["decode"][counter], joules_per_token=joules, **shared,
        )  # fmt: skip

    def _read_prompts(self, engine: Any, ids: Any) -> tuple[list[float], float | None]:
        """Seconds of each repetition of prefill, and joules a token of all passes."""
        from evalkit.inference.timing import time_prefill

        begin = self.sensors()

        def countable() -> bool:
            # Nothing is asked of the sensors between passes: the card would idle meanwhile.
            return _countable([(begin, dataclasses.replace(begin, at=time.perf_counter()))])

        repetitions = self.round.repetitions
        seconds = [time_prefill(engine, ids)[0] for _ in _repeated(repetitions, countable)]
        joules = energy([(begin, self.sensors())])
        return seconds[:repetitions], _per_token(joules, ids.numel() * len(seconds))

    def _decode(self, engine: Any, ids: Any) -> tuple[list[tuple[float, ...]], float | None]:
        """Seconds of each step of each repetition of decode, and joules a token of all steps."""
        from evalkit.inference.timing import time_prefill, time_steps

        runs: list[tuple[float, ...]] = []
        windows: list[tuple[Reading, Reading]] = []
        for _ in _repeated(self.round.repetitions, lambda: _countable(windows)):
            _, tokens = time_prefill(engine, ids)
            begin = self.sensors()
            runs.append(time_steps(engine, tokens, self.round.generate))
            windows.append((begin, self.sensors()))
        made = len(ids) * self.round.generate * len(runs)
        return runs[: self.round.repetitions], _per_token(energy(windows), made)

    def _prepare(self, ids: Any, length: int) -> Any:
        """The engine to use: of several, the one that decodes fastest here, for all points."""
        from evalkit.inference.timing import time_prefill, time_steps

        if len(self.engines) == 1:
            return self.session.engine(self.engines[0], ids, length)
        tried: dict[str, float] = {}
        for name in self.engines:
            try:
                engine = self.session.engine(name, ids, length).engine
            except VariantError as error:
                self.send(Event(self.round.job.variant.label, "", message=str(error)))
                continue
            _, tokens = time_prefill(engine, ids)
            steps = time_steps(engine, tokens, min(32, self.round.generate))
            tried[name] = sorted(steps)[len(steps) // 2]
            # A second cache beside the first may not fit.
            engine.release()
        self.engines = (min(tried, key=tried.__getitem__),)
        return self.session.engine(self.engines[0], ids, length)

    def soak(self) -> Iterator[SoakSample]:
        """Decode without a pause for the round's seconds; a sample each second."""
        from evalkit.inference.timing import random_prompts, time_prefill

        round_ = self.round
        ids = random_prompts(self.model, round_.soak_batch, round_.prompt)
        engine = self._prepare(ids, round_.prompt + round_.generate).engine
        begun = mark = time.perf_counter()
        made, since = round_.generate, 0
        while (now := time.perf_counter()) - begun < round_.soak:
            stop_if_asked()
            if made >= round_.generate:
                _, tokens = time_prefill(engine, ids)
                made = 0
            tokens = _advance(engine, tokens)
            made, since = made + 1, since + round_.soak_batch
            if (passed := now - mark) >= SOAK_INTERVAL:
                one = self.sensors()
                yield SoakSample(
                    now - begun, since / passed, one.watts, one.celsius, one.clock_mhz, one.throttle
                )
                self.send(
                    Event(round_.job.variant.label, "soak", now - begun, round_.soak, "seconds")
                )
                mark, since = now, 0


def _advance(engine: Any, tokens: Any) -> Any:
    """One decode step that has finished when it returns."""
    import torch

    with torch.inference_mode():
        tokens = engine.step(tokens)
    if tokens.device.type == "cuda":
        torch.cuda.synchronize()
    return tokens


def _repeated(count: int, countable: Callable[[], bool]) -> Iterator[int]:
    """Repetition numbers: `count`, and as many more as make the energy countable.

    Within POINT_SECONDS, but two at least.
    """
    begun = time.perf_counter()
    for number in itertools.count():
        if number >= count and countable():
            return
        if number >= 2 and time.perf_counter() - begun > POINT_SECONDS:
            return
        yield number


def _countable(windows: list[tuple[Reading, Reading]]) -> bool:
    """Whether a counter of energy, where there is one, ticks often enough in the windows."""
    counted = all(begin.joules is not None for begin, _ in windows)
    return not counted or long_enough(windows)


def _per_token(joules: float | None, tokens: int) -> float | None:
    return None if joules is None else joules / tokens


def _cache_bytes(engine: Any) -> float:
    """Bytes of keys and values, or of a state, that the engine holds."""
    from evalkit.models.caches import kept_tensors

    held = kept_tensors(engine.cache)
    return float(sum(tensor.numel() * tensor.element_size() for tensor in held))
