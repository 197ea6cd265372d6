"""From the rounds of a bench to its record: medians, intervals, utilizations, memory, soak."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from evalkit.analysis.architecture import ModelShape
from evalkit.analysis.footprint import CPU, CUDA, Scheme
from evalkit.analysis.planner import memory
from evalkit.analysis.roofline import decode_flops, kv_read_bytes, prefill_flops
from evalkit.analysis.soak import judge
from evalkit.analysis.sweep import interval, is_unsteady, knee, percentile
from evalkit.errors import EvalkitError, OutOfMemoryError
from evalkit.records.bench import Bench, BenchPoint, MachineRates, MemoryUse, Phase
from evalkit.running.bench.round import KEPT_LATENCIES, PhaseResult
from evalkit.running.hardware_plan import schemes_of, shape_of

if TYPE_CHECKING:
    from evalkit.running.bench.plan import BenchPlan
    from evalkit.running.bench.run import Measured

_BEYOND = (
    "beyond what was measured twice as the machine's most: its weights stay in a cache, or the"
    " machine was busy"
)
# The dtype of arithmetic whose measured rate a variant's operations are compared with.
_ARITHMETIC = {"fp32": "float32", "bf16": "bfloat16"}


def summarise(plan: BenchPlan, measured: Sequence[Measured], rates: MachineRates) -> Bench:
    """The record of a bench; a variant without rounds is one point that says why."""
    options = plan.options
    prompt = options["prompt"]
    shapes = _Shapes(plan)
    points: list[BenchPoint] = []
    uses: list[MemoryUse] = []
    notes = dict.fromkeys(plan.notes)
    for one in measured:
        if one.failure is not None:
            points.append(_failed(one, prompt))
            continue
        points += _points(one, shapes, rates)
        uses += _memory(one, shapes)
        notes |= dict.fromkeys(
            f"{one.job.variant.label}: {note}" for round_ in one.rounds for note in round_.notes
        )
    knees = {one.job.variant.label: knee_of(one, prompt) for one in measured}
    return Bench(
        model=plan.model,
        rates=rates,
        points=tuple(points),
        prompt=prompt,
        generate=options["generate"],
        knee={label: size for label, size in knees.items() if size},
        memory=tuple(uses),
        soaks=tuple(
            judge(one.job.variant.label, knee_of(one, prompt) or 1, one.soak.soak)
            for one in measured
            if one.soak is not None and one.soak.soak
        ),
        environment=plan.jobs[0].environment,
        notes=tuple(notes),
        store=str(plan.jobs[0].store),
        command=plan.command,
    )


def is_beyond(point: BenchPoint) -> bool:
    """Whether a point is faster than what was measured as the most that the machine can do."""
    return max(point.bandwidth_utilization or 0.0, point.flops_utilization or 0.0) > 1.0


def with_warnings(bench: Bench) -> Bench:
    """The bench with a warning at every point that is beyond the machine's rates all the same."""
    points = tuple(
        dataclasses.replace(one, warnings=(*one.warnings, _BEYOND)) if is_beyond(one) else one
        for one in bench.points
    )
    return dataclasses.replace(bench, points=points)


def knee_of(one: Measured, prompt: int) -> int | None:
    """The batch size at the knee of decode, None where nothing was measured."""
    grouped = _grouped(one)
    speeds = {
        batch: statistics.median(_rounds(results))
        for (phase, batch, context), results in grouped.items()
        if phase == "decode" and context == prompt and any(r.samples for r in results)
    }
    return knee(speeds) if speeds else None


class _Shapes:
    """The planner's view of the model and of each variant; None where it has none."""

    def __init__(self, plan: BenchPlan) -> None:
        self.device = plan.jobs[0].device
        variants = [job.variant for job in plan.jobs]
        schemes, _, _ = schemes_of(variants, plan.checkpoint)
        self.schemes: dict[str, Scheme] = dict(schemes)
        self.shape: ModelShape | None = None
        if schemes:
            try:
                found = [scheme for _, scheme in schemes]
                self.shape = shape_of(plan.model.name, plan.checkpoint, found)
            except EvalkitError:
                self.shape = None

    def of(self, label: str) -> tuple[ModelShape, Scheme] | None:
        """Shape and scheme of a variant."""
        scheme = self.schemes.get(label)
        return None if self.shape is None or scheme is None else (self.shape, scheme)


def _grouped(one: Measured) -> dict[tuple[str, int, int], list[PhaseResult]]:
    """Results of all rounds by phase, batch and context, in the order of the first round."""
    found: dict[tuple[str, int, int], list[PhaseResult]] = {}
    for round_ in one.rounds:
        for result in round_.phases:
            found.setdefault((result.phase, result.batch, result.context), []).append(result)
    return found


def _rounds(results: Sequence[PhaseResult]) -> list[float]:
    return [statistics.median(result.samples) for result in results if result.samples]


def _points(one: Measured, shapes: _Shapes, rates: MachineRates) -> Iterator[BenchPoint]:
    weights = _read_weights(one)
    for (phase, batch, context), results in _grouped(one).items():
        bad = next((result for result in results if result.status != "ok"), None)
        shown = bad or results[0]
        name: Phase = "prefill" if phase == "prefill" else "decode"
        point = BenchPoint(
            variant=one.job.variant.label,
            resolved=one.job.variant.text,
            status=shown.status,  # type: ignore[arg-type]
            phase=name,
            batch_size=batch,
            context=context,
            engine=shown.engine,
            kernel=one.rounds[0].kernel,
            message=shown.message,
        )
        if bad is None:
            point = _measured_point(point, results)
            point = _utilized(point, one, shapes, rates, weights)
        yield point


def _measured_point(point: BenchPoint, results: Sequence[PhaseResult]) -> BenchPoint:
    rounds = _rounds(results)
    samples = tuple(sample for result in results for sample in result.samples)
    latencies = tuple(value for result in results for value in result.latencies)
    bounds = interval(rounds)
    energies = [r.joules_per_token for r in results if r.joules_per_token is not None]
    warnings = []
    if is_unsteady(samples):
        warnings.append(
            "samples deviate by a tenth of their mean or more, measure again with nothing else"
            " running"
        )
    differs = next((r.differs_at for r in results if r.differs_at is not None), None)
    if differs is not None:
        warnings.append(f"greedy tokens differ from eager's from token {differs + 1} on")
    return dataclasses.replace(
        point,
        samples=samples,
        rounds=tuple(rounds),
        tokens_per_second=statistics.median(rounds),
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        latency_ms_p50=percentile(latencies, 50),
        latency_ms_p95=percentile(latencies, 95),
        latency_ms_p99=percentile(latencies, 99),
        latencies_ms=latencies[:: max(1, len(latencies) // KEPT_LATENCIES)],
        peak_memory_bytes=max((r.peak for r in results if r.peak is not None), default=None),
        joules_per_token=statistics.median(energies) if energies else None,
        preparation_seconds=results[0].preparation or None,
        warnings=tuple(warnings),
    )


def _read_weights(one: Measured) -> float:
    """Bytes of weights that a decode step reads: all but an embedding that is not the head."""
    weights = one.rounds[0].weights
    return sum(weights.values()) - (weights.get("embedding", 0.0) if "head" in weights else 0.0)


def _utilized(
    point: BenchPoint, one: Measured, shapes: _Shapes, rates: MachineRates, weights: float
) -> BenchPoint:
    """Bytes and operations of a pass, and their rates over the machine's."""
    found = shapes.of(point.variant)
    if found is None or point.tokens_per_second is None:
        return point
    shape, scheme = found
    batch, context = point.batch_size, point.context
    if point.phase == "decode":
        passes = point.tokens_per_second / batch
        cache = batch * kv_read_bytes(shape, scheme, context)
        read, flops = weights + cache, decode_flops(shape, batch, context)
    else:
        passes = point.tokens_per_second / (batch * context)
        read, flops = weights, prefill_flops(shape, batch, context)
    dtype = _ARITHMETIC.get(one.job.variant.precision, "float16")
    # What a CPU cannot multiply in 16 bit it multiplies in 32.
    rate = rates.flops.get(dtype)
    if one.job.device == "cpu":
        rate = max(rates.flops.values(), default=None)
    return dataclasses.replace(
        point,
        bytes_per_step=read,
        flops_per_step=flops,
        bandwidth_utilization=read * passes / rates.bandwidth,
        flops_utilization=flops * passes / rate if rate else None,
    )


def _memory(one: Measured, shapes: _Shapes) -> Iterator[MemoryUse]:
    first = one.rounds[0]
    found = shapes.of(one.job.variant.label)
    for key, peaks in first.peaks.items():
        batch, context = map(int, key.split())
        planned = None
        if found is not None:
            runtime = CPU if shapes.device == "cpu" else CUDA
            planned = memory(*found, batch, context, runtime=runtime).total
        loads = {f"load {name}": value for name, value in first.load_peaks.items()}
        yield MemoryUse(
            one.job.variant.label, batch, context, first.weights, first.kv_cache.get(key),
            loads | peaks, planned,
        )  # fmt: skip


def _failed(one: Measured, prompt: int) -> BenchPoint:
    full = isinstance(one.failure, OutOfMemoryError)
    return BenchPoint(
        variant=one.job.variant.label,
        resolved=one.job.variant.text,
        status="out_of_memory" if full else "failed",
        phase="decode",
        batch_size=1,
        context=prompt,
        message=str(one.failure),
    )
