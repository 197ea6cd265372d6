"""A bench as a sheet, JSON and CSV: pure functions of a Bench.

The JSON object has the schema "evalkit.bench/1": one object in `rows` a point, in tokens/s of all
sequences together, milliseconds and bytes; what was not measured is null.
"""

from __future__ import annotations

from typing import Any

from evalkit import numbers
from evalkit.analysis.sweep import CERTAIN, CLEAR, ratio, verdict
from evalkit.paths import called, called_words
from evalkit.records.bench import Bench, BenchPoint, MachineRates, MemoryUse, Soak
from evalkit.view.cells import Grid, Line
from evalkit.view.export import csv_text, json_text
from evalkit.view.sheet import Sheet

SCHEMA = "evalkit.bench/1"
TITLES = (
    "phase", "batch", "context", "speed", "to the first", "p50", "p95", "p99", "bandwidth",
    "arithmetic", "peak", "energy",
)  # fmt: skip
KEYS = (
    "variant", "status", "message", "kernel", "engine", "phase", "batch_size", "context",
    "tokens_per_second", "low", "high", "n", "latency_ms_p50", "latency_ms_p95", "latency_ms_p99",
    "bandwidth_utilization", "flops_utilization", "peak_memory_bytes", "joules_per_token",
    "preparation_seconds",
)  # fmt: skip


def sheet(bench: Bench) -> Sheet:
    """Heading, one line a point, and what the numbers mean."""
    return Sheet("Bench", heading(bench), bench_grid(bench), remarks(bench))


def to_json(bench: Bench) -> str:
    """One object (see the module's docstring)."""
    rates = bench.rates
    return json_text({
        "schema": SCHEMA,
        "model": bench.model.name,
        "machine": bench.environment.machine if bench.environment else None,
        "bandwidth_bytes_per_second": rates.bandwidth if rates else None,
        "flops_per_second": rates.flops if rates else {},
        "prompt": bench.prompt,
        "generate": bench.generate,
        "knee": bench.knee,
        "rows": _rows(bench),
    }, ascii_only=True)  # fmt: skip


def to_csv(bench: Bench) -> str:
    """One line a point with the keys of the JSON's rows."""
    return csv_text(KEYS, _rows(bench))


def heading(bench: Bench) -> list[str]:
    """Model, machine and what the machine can do at most."""
    found = [numbers.clean(called(bench.model.name))]
    if bench.model.weights == "random":
        found.append("random weights")
    if bench.environment:
        found.append(bench.environment.machine.partition(" [")[0])
    if bench.rates:
        found.append(f"measured {limits(bench.rates)}")
    return [*found, f"prompt {bench.prompt}, generated {bench.generate}"]


def limits(rates: MachineRates) -> str:
    """What a machine can do at most: "936 GB/s, 142 TFLOP/s"."""
    gigabytes, tera = rates.bandwidth / 1e9, max(rates.flops.values(), default=0.0) / 1e12
    words = [numbers.plain(value, numbers.places(value, 3)) for value in (gigabytes, tera)]
    return f"{words[0]} GB/s, {words[1]} TFLOP/s"


def bench_grid(bench: Bench) -> Grid:
    """One line a point; the variant is named where it changes, with its engine."""
    lines, before = [], ""
    baseline = _by_setting(bench)
    for point in bench.points:
        label = _name(point.variant) if point.variant != before else ""
        before = point.variant
        if point.tokens_per_second is None:
            what = f"{point.phase} batch {point.batch_size}: {point.message or point.status}"
            lines.append(Line(label, message=numbers.clean(what), finding="failed"))
            continue
        lines.append(Line(label, _cells(point, baseline.get(_setting(point)))))
    return Grid(TITLES, tuple(lines))


def remarks(bench: Bench) -> list[str]:
    """What ran, knees, memory, soak, warnings, and how to read the columns; one line each."""
    found = [_ran(bench)]
    found += [f"knee of {name}: batch {size}, beyond it 25 % more sequences gain less than 5 %"
              for name, size in bench.knee.items()]  # fmt: skip
    found += [line for use in bench.memory if (line := _memory_line(use, bench))]
    found += [_soak_line(soak) for soak in bench.soaks]
    found += _warnings(bench)
    found += [f"note: {numbers.clean(note)}" for note in bench.notes]
    found.append(
        "speed: median of all repetitions' tokens/s, all sequences together, ± half of the 95 %"
        " interval over rounds; × : over the first variant, paired by round, with its interval,"
        f" called faster or slower where that is certain at {100 * CERTAIN:.0f} % and by more than"
        f" {100 * (CLEAR - 1):.0f} %;"
        " bandwidth and arithmetic: bytes read and operations done over the machine's measured"
        " rates"
    )
    return found


def _name(variant: str) -> str:
    """What a variant is called, without the folders of its paths."""
    return numbers.clean(called_words(variant))


def _rows(bench: Bench) -> list[dict[str, Any]]:
    return [{key: getattr(point, key) for key in KEYS} for point in bench.points]


def _warnings(bench: Bench) -> list[str]:
    """Each kind of warning once, with the points it holds for."""
    places: dict[str, list[str]] = {}
    for point in bench.points:
        for warning in point.warnings:
            where = f"{_name(point.variant)} {point.phase} at batch {point.batch_size}"
            places.setdefault(warning, []).append(where)
    return [f"{warning}: {', '.join(where)}" for warning, where in places.items()]


def _ran(bench: Bench) -> str:
    kernels: dict[str, None] = {}
    for point in bench.points:
        if point.kernel:
            kernels.setdefault(f"{point.variant} {point.kernel}, {point.engine}", None)
    return f"ran: {' · '.join(map(numbers.clean, kernels)) or 'nothing'}"


def _setting(point: BenchPoint) -> tuple[str, int, int]:
    return point.phase, point.batch_size, point.context


def _by_setting(bench: Bench) -> dict[tuple[str, int, int], BenchPoint]:
    """The first variant's points by setting."""
    first = bench.points[0].variant if bench.points else ""
    return {_setting(p): p for p in bench.points if p.variant == first}


def _cells(point: BenchPoint, baseline: BenchPoint | None) -> tuple[str, ...]:
    decode = point.phase == "decode"
    peak, energy = point.peak_memory_bytes, point.joules_per_token
    return (
        point.phase,
        str(point.batch_size),
        str(point.context),
        _speed(point, baseline),
        "" if decode else _milliseconds(point.latency_ms_p50),
        *(
            _milliseconds(value) if decode else ""
            for value in (point.latency_ms_p50, point.latency_ms_p95, point.latency_ms_p99)
        ),
        _share(point.bandwidth_utilization),
        _share(point.flops_utilization),
        numbers.MISSING if peak is None else numbers.byte_size(peak),
        "not available" if energy is None else f"{energy:.3g} J/tok",
    )


def _speed(point: BenchPoint, baseline: BenchPoint | None) -> str:
    speed = point.tokens_per_second or 0.0
    text = numbers.rate(speed)
    if point.low is not None and point.high is not None:
        text += f" ± {100 * (point.high - point.low) / 2 / speed:.0f} %"
    if baseline is None or baseline.variant == point.variant:
        return text
    found = ratio(point.rounds, baseline.rounds)
    if found is None:
        return text
    middle, low, high = found
    text += f", {numbers.times(middle)} [{low:.2f}, {high:.2f}]"
    return f"{text} {verdict(point.rounds, baseline.rounds)}".rstrip()


def _milliseconds(value: float | None) -> str:
    if value is None:
        return numbers.MISSING
    return f"{numbers.plain(value, numbers.places(value, 3))} ms"


def _share(value: float | None) -> str:
    return numbers.MISSING if value is None else numbers.percent(value)


def _memory_line(use: MemoryUse, bench: Bench) -> str:
    """Weights, cache and peak of a variant's smallest setting, beside the plan."""
    smallest = next(u for u in bench.memory if u.variant == use.variant)
    if use is not smallest:
        return ""
    stages = ", ".join(f"{name} {numbers.byte_size(value)}" for name, value in use.peaks.items())
    plan = f"; planned {numbers.byte_size(use.planned)}" if use.planned else ""
    cache = "" if use.kv_cache is None else f", KV cache {numbers.byte_size(use.kv_cache)}"
    return (
        f"memory of {_name(use.variant)} at batch {use.batch_size}: weights"
        f" {numbers.byte_size(sum(use.weights.values()))}{cache}; peaks {stages}{plan}"
    )


def _soak_line(soak: Soak) -> str:
    held = "held" if soak.held else "did not hold"
    line = (
        f"soak of {_name(soak.variant)} at batch {soak.batch_size}: speed {held},"
        f" {numbers.rate(soak.first)} at first, {numbers.rate(soak.last)} at last"
    )
    if soak.throttled_after is not None:
        line += f"; throttled from {soak.throttled_after:.0f} s by {', '.join(soak.throttled_by)}"
    if soak.steady_after is not None:
        line += f"; steady from {soak.steady_after:.0f} s"
    if all(sample.celsius is None for sample in soak.samples):
        line += "; temperature, power and throttling not available"
    return line
