"""Hand-made comparisons for the tests of the views."""

from __future__ import annotations

from typing import Any

from evalkit.backends import label
from evalkit.metrics import table_columns
from evalkit.records import (
    Comparison,
    Environment,
    Model,
    Row,
    Suite,
    TaskSlice,
    TextSlice,
    Value,
    Variant,
    Verdict,
)

FP16 = Variant("fp16", "transformers", asked="fp16")
INT8 = Variant("int8", "bitsandbytes", asked="int8")
INT4 = Variant("int4", "gptq", (("group_size", 128),), asked="int4")

MEMORY = (("weight_bytes", 9.64e6), ("peak_memory_bytes", 31.2e6), ("bits_per_weight", 16.0))
SPEED = (("prefill_tokens_per_second", 4210.0), ("decode_tokens_per_second", 88.25))


def sampled(value: float, unit: str, base: float | None = None) -> Value:
    if base is None:
        return Value(value, unit, 5, value, value, 0.0, 0.0, 0.0, "baseline", {"p50": value})
    return Value(
        value,
        unit,
        5,
        value * 0.98,
        value * 1.02,
        value - base,
        value - base,
        value - base,
        "better",
        {"ratio": value / base},
    )


def quality(
    base: bool, delta: float = 0.0, tasks: float = 0.0, loss: float = 0.0
) -> dict[str, Value]:
    if base:
        return {
            "perplexity": Value(3.694, "perplexity", 60_312, 3.57, 3.82, 0, 0, 0, "baseline"),
            "tasks_mean": Value(0.8731, "fraction", 2000, 0.858, 0.888, 0, 0, 0, "baseline"),
        }
    return {
        "perplexity": Value(
            3.694 + delta,
            "perplexity",
            60_312,
            3.6,
            3.9,
            delta,
            delta * 0.8,
            delta * 1.2,
            "no loss",
        ),
        "kl_divergence_mean": Value(delta / 5, "nats", 60_312, 0.0, 0.1, verdict="changed"),
        "top1_agreement": Value(1 - delta / 2, "fraction", 60_312, 0.9, 1.0, verdict="changed"),
        "tasks_mean": Value(
            0.8731 + tasks,
            "fraction",
            2000,
            0.85,
            0.89,
            tasks,
            tasks - loss,
            tasks + loss,
            "no loss",
        ),
    }


def row(variant: Variant, factor: float | None = None, **changes: Any) -> Row:
    """A measured row: the baseline, or one with sizes and speeds `factor` times better."""
    metrics = {}
    for name, value in MEMORY:
        metrics[name] = sampled(value / (factor or 1), "bytes", value if factor else None)
    for name, value in SPEED:
        metrics[name] = sampled(value * (factor or 1), "tokens/s", value if factor else None)
    metrics |= changes.pop("quality", quality(factor is None))
    given: dict[str, Any] = {
        "variant": variant,
        "status": "ok",
        "kernel": "Linear (float16)",
        "verdict": Verdict("baseline" if factor is None else "no loss"),
        "metrics": metrics,
        "runs": (f"run-{variant.precision}",),
    }
    if "label" not in changes:
        given["label"] = label(variant)
    return Row(**(given | changes))


def comparison(*rows: Row, **changes: Any) -> Comparison:
    """fp16, int8 and int4 of the demo, or the given rows."""
    given: dict[str, Any] = {
        "model": Model("Phi-3 Small demo", "abc", 4_820_000, "phi3small"),
        "suite": Suite(
            "demo",
            (TextSlice("town_test", "f" * 64, 120),),
            context=1024,
            tasks=tuple(TaskSlice(f"demo_{n}", 0, 500) for n in ("where", "last_word", "a", "b")),
        ),
        "baseline": "fp16",
        "margin": "1pp",
        "rows": rows or standard_rows(),
        "noise_floor": {
            "perplexity": 0.00004,
            "kl_divergence_mean": 3.1e-7,
            "top1_agreement": 0.0002,
            "tasks_mean": 0.0005,
        },
        "environment": Environment("Some CPU, 2 threads, 8 GB [12ab]", "cpu", 2, "3.11", "Linux"),
        "sentence": "Use int8: it loses nothing beyond 1pp (weights ÷ 1.8); int4 is undecided.",
        "notes": ("baseline scored in batches of 4096 tokens",),
        "store": "/home/someone/.cache/evalkit",
        "columns": table_columns(),
    }
    return Comparison(**(given | changes))


def standard_rows() -> tuple[Row, ...]:
    return (
        row(FP16),
        row(
            INT8,
            1.8,
            kernel="Linear8bitLt",
            quality=quality(False, 0.0123, -0.0041, 0.0062),
        ),
        row(
            INT4,
            3.4,
            kernel="TorchAtenLinear",
            verdict=Verdict("inconclusive", items_needed=900),
            quality=quality(False, 0.21, -0.0174, 0.011),
        ),
    )
