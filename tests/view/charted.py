"""Comparisons for the tests of charts and report, awkward ones too, and raw values behind them."""

from __future__ import annotations

import dataclasses

import numpy as np

from evalkit.analysis.compare import Measured
from evalkit.analysis.equal_bytes import equal_bytes
from evalkit.analysis.summaries import TokenTable
from evalkit.backends import label
from evalkit.records import (
    Comparison,
    Environment,
    Measurement,
    Row,
    Run,
    Suite,
    TaskSlice,
    TextSlice,
    Value,
    Variant,
    Verdict,
)
from evalkit.records.equal_bytes import EqualBytes
from tests.view.comparisons import FP16, INT4, INT8, comparison

TEXTS = ("town_test", "stories", "code sample", "wiki articles of another length")
PERCENTILES = {
    "median": 0.3, "mean": 1.0, "p90": 2.4, "p95": 3.5, "p99": 8.0, "p999": 25.0, "max": 60.0,
}  # fmt: skip
LONG = "an-organisation/Some-Rather-Long-Model-Name-{}-Instruct-GPTQ-Int4-g128-desc-act"


def full(
    variants: tuple[Variant, ...] = (FP16, INT8, INT4),
    *,
    tasks: int = 4,
    items: int = 500,
    texts: int = 4,
    width: float = 1.0,
) -> Comparison:
    """Everything measured; `width` scales all intervals, 0 for exact values."""
    names = [f"demo_{n}" for n in ("where", "last_word", "price", "grammar")]
    names = [names[i] if i < 4 else f"task_number_{i}" for i in range(tasks)]
    rows = tuple(
        _row(variant, place, len(variants), names, items, TEXTS[:texts], width)
        for place, variant in enumerate(variants)
    )
    base = comparison()
    suite = Suite(
        "demo",
        tuple(TextSlice(name, "f" * 64, 120) for name in TEXTS[:texts]),
        context=1024,
        tasks=tuple(TaskSlice(name, 0, items) for name in names),
    )
    floor = {f"kl_divergence_{name}": 2e-7 * scale for name, scale in PERCENTILES.items()}
    return with_rows(
        dataclasses.replace(base, suite=suite, noise_floor={**base.noise_floor, **floor}), *rows
    )


def many(count: int = 12, *, long: bool = True, tasks: int = 20, items: int = 10_000) -> Comparison:
    """fp16 and `count` − 1 checkpoints whose names differ only in the middle."""
    others = [
        Variant("checkpoint", "checkpoint", checkpoint=LONG.format(place))
        if long
        else Variant("int4", "gptq", (("group_size", 2**place),), asked=f"int4 {place}")
        for place in range(count - 1)
    ]
    return full((FP16, *others), tasks=tasks, items=items)


def with_rows(one: Comparison, *rows: Row) -> Comparison:
    """The comparison with other rows, and their order by bytes."""
    made = dataclasses.replace(one, rows=rows)
    raw = raw_values(made)
    measured = [raw.get(row.variant.label) or Measured(row.variant, ()) for row in rows]
    found = equal_bytes(rows, measured, noise=0.0) if len(raw) > 1 else EqualBytes()
    return dataclasses.replace(made, equal_bytes=found)


def without(one: Comparison, *metrics: str) -> Comparison:
    """The comparison with some metrics not measured in any row."""
    rows = [
        dataclasses.replace(row, metrics={k: v for k, v in row.metrics.items() if k not in metrics})
        for row in one.rows
    ]
    return with_rows(one, *rows)


def failed(one: Comparison, *places: int) -> Comparison:
    """The comparison with the rows at `places` failed."""
    rows = [
        dataclasses.replace(
            row, status="out_of_memory", message="needs 9 GB", metrics={}, slices={}
        )
        if place in places
        else row
        for place, row in enumerate(one.rows)
    ]
    return with_rows(one, *rows)


def on_card(one: Comparison, title: str = "NVIDIA GeForce RTX 4090", scale: float = 1600.0):
    """The comparison as if measured on a card, with its bytes `scale` times larger."""
    rows = []
    for row in one.rows:
        metrics = dict(row.metrics)
        for name in ("weight_bytes", "peak_memory_bytes"):
            value = metrics[name]
            details = {k: v * scale for k, v in value.details.items() if k != "ratio"}
            metrics[name] = dataclasses.replace(
                value, value=(value.value or 0) * scale, details=details
            )
        rows.append(dataclasses.replace(row, metrics=metrics))
    environment = Environment(f"Some CPU, 64 GB, {title} [ab12]", "cuda", 16, "3.11", "Linux")
    return dataclasses.replace(with_rows(one, *rows), environment=environment)


def raw_values(one: Comparison, windows: int = 30, tokens: int = 60) -> dict[str, Measured]:
    """Raw values for every row that has not failed: tokens, noise and speed samples."""
    found = {}
    for place, row in enumerate(one.rows):
        if row.status != "ok":
            continue
        run = Run(f"run{place}", one.model, row.variant, one.suite, "ok")
        samples = []
        for name in ("prefill_tokens_per_second", "decode_tokens_per_second"):
            if name in row.metrics:
                middle = row.metrics[name].value or 1.0
                spread = (0.97, 1.0, 1.0, 1.01, 0.96 if place != 1 else 0.6)
                values = tuple(middle * factor for factor in spread)
                how = "batch 1, prompt 512, generated 64, eager"
                samples.append(Measurement(name, 1, "tokens/s", "higher", values, convention=how))
        run = dataclasses.replace(run, measurements=tuple(samples))
        scale = 0.002 * 4**place
        found[row.variant.label] = Measured(
            variant=row.variant,
            runs=(run,),
            tokens=token_table(place, windows, tokens, scale if place else None),
            noise=None if place else token_table(99, windows, tokens, 2e-7),
        )
    return found


def token_table(
    seed: int, windows: int, tokens: int, kl: float | None, nll: float = 1.3
) -> TokenTable:
    """Per-token values with a divergence of mean `kl` that grows with the position."""
    draw = np.random.default_rng(seed)
    window = np.repeat(np.arange(windows, dtype=np.int32), tokens)
    position = np.tile(np.arange(1, tokens + 1, dtype=np.int32), windows)
    columns = {
        "window": window,
        "position": position,
        "nll": (nll * draw.gamma(1.0, 1.0, windows * tokens)).astype(np.float32),
    }
    if kl is not None:
        grown = 0.5 + position / tokens
        columns["kl"] = (kl * grown * draw.lognormal(-1, 1.4, windows * tokens)).astype(np.float32)
    sums = {
        "slice": np.zeros(windows, np.int32),
        "document": np.arange(windows, dtype=np.int32),
        "scored": np.full(windows, tokens),
    }
    return TokenTable(sums, lambda name: columns[name])


def _row(
    variant: Variant,
    place: int,
    count: int,
    tasks: list[str],
    items: int,
    texts: tuple[str, ...],
    width: float,
) -> Row:
    draw = np.random.default_rng(place)
    metrics = _probes(place, width) | _tokens(place, width)
    for number, task in enumerate(tasks):
        metrics |= _task(task, place, number, items, width, draw)
    mean = _share(0.8 - 0.002 * place**1.5, -0.002 * place**1.5, 0.004 * width, items * len(tasks))
    metrics["tasks_mean"] = mean if place else _baseline(mean)
    slices = {
        name: _tokens(place, width, 1 + number) for number, name in enumerate(texts) if texts[1:]
    }
    verdict = "baseline" if place == 0 else "no loss" if place < count / 2 else "worse"
    return Row(
        variant, "ok", "", "Linear", Verdict(verdict, is_beyond_margin=True), metrics, slices,
        runs=(f"run{place}",), label=label(variant),
    )  # fmt: skip


def _probes(place: int, width: float) -> dict[str, Value]:
    size = 9.64e6 / (1 + 0.7 * place)
    speed = 88 * (1 + 0.25 * place) if place != 2 else 70.0
    parts = {"embedding": 0.9e6, "norm": 2e4}
    left = size - sum(parts.values())
    parts |= {"packed": 0.95 * left, "scales": 0.05 * left} if place else {"linear": left}
    ratio = {"ratio": 1 / (1 + 0.7 * place)} if place else {}
    found = {
        "weight_bytes": Value(size, "bytes", 1, verdict="better", details={**parts, **ratio}),
        "peak_memory_bytes": Value(size * 1.4 + 2e6, "bytes", 1, verdict="better"),
    }
    for name, scale in (("prefill_tokens_per_second", 48.0), ("decode_tokens_per_second", 1.0)):
        value = speed * scale
        spread = 0.03 * width * value
        found[name] = Value(value, "tokens/s", 5, value - spread, value + spread, verdict="better")
    return found


def _tokens(place: int, width: float, factor: float = 1.0) -> dict[str, Value]:
    base = 3.694 * factor
    delta = 0.004 * place**1.8 * factor
    half = (0.004 + 0.2 * delta) * width
    value = Value(
        base + delta, "", 60_312, base + delta - 0.1 * width, base + delta + 0.1 * width, delta,
        delta - half, delta + half, "no loss", {"windows": 30},
    )  # fmt: skip
    if place == 0:
        return {"perplexity": _baseline(value)}
    mean = 0.002 * place**1.6 * factor
    found = {"perplexity": value}
    for name, scale in PERCENTILES.items():
        kl = mean * scale
        known = name != "max"
        found[f"kl_divergence_{name}"] = Value(
            kl, "nats", 60_312, kl * (1 - 0.1 * width) if known else None,
            kl * (1 + 0.1 * width) if known else None, verdict="changed",
        )  # fmt: skip
    found["top1_agreement"] = Value(1 - mean, "", 60_312, 1 - mean, 1 - mean, verdict="changed")
    return found


def _task(
    task: str, place: int, number: int, items: int, width: float, draw: np.random.Generator
) -> dict[str, Value]:
    score = 0.55 + 0.4 * ((number * 7) % 10) / 10
    lost = int(items * 0.004 * place + draw.integers(0, 5)) if place else 0
    won = int(items * 0.003 * place + draw.integers(0, 4)) if place else 0
    delta = (won - lost) / items
    value = _share(score + delta, delta, 0.01 * width, items)
    if place == 0:
        return {f"{task}.acc": _baseline(value)}
    flips = Value(
        float(lost + won), "items", items, verdict="changed",
        details={"right_to_wrong": lost, "wrong_to_right": won, "mcnemar_p": 0.04 / (1 + number)},
    )  # fmt: skip
    return {f"{task}.acc": value, f"{task}.flips": flips}


def _share(value: float, delta: float, half: float, n: int) -> Value:
    return Value(
        value, "", n, value - 2 * half, value + 2 * half, delta, delta - half, delta + half,
        "inconclusive", {"p_value": 0.2},
    )  # fmt: skip


def _baseline(value: Value) -> Value:
    return dataclasses.replace(
        value, delta=None, delta_low=None, delta_high=None, verdict="baseline", details={}
    )
