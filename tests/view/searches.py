"""Searches for the tests of their table, JSON and chart."""

from __future__ import annotations

from evalkit.records import Model
from evalkit.records.search import (
    Difference,
    FoundMix,
    FrontierPoint,
    PlannedModule,
    Rival,
    RivalKind,
    Search,
)

FORMATS = ("int4,group_size=64", "int8,group_size=64")
LOADERS = ("GPTQModel", "not plain transformers")


def rival(kind: RivalKind, against: str, kl: float, size: float, *, own: float = 0.1) -> Rival:
    delta = Difference(
        own - kl, own - kl - 0.01, own - kl + 0.01, "better" if kl > own else "worse"
    )
    return Rival(against, kind, against, size, kl, kl - 0.02, kl + 0.02, delta, size == 96e6)


def mix(bits: float = 4.6, **changes: object) -> FoundMix:
    plan = tuple(PlannedModule(f"m{n}", FORMATS[n % 2], 1000 * (1 + n % 2)) for n in range(5))
    fields = {
        "budget_bytes": 96_100_000,
        "bytes": 96_000_000,
        "bits": bits,
        "plan": plan,
        "predicted_kl": 0.09,
        "variant": f"mixed@gptq,plan=/store/mix-{bits}.yaml",
        "plan_file": f"/store/mix-{bits}.yaml",
        "checkpoint": "/store/artifacts/mixed-gptq-1",
        "loaders": LOADERS,
        "kl": 0.1,
        "low": 0.08,
        "high": 0.12,
        "held_out": (
            rival("head and tail", "head and tail", 0.15, 96e6),
            rival("random", "random (median of 5)", 0.2, 96e6),
            rival("smaller", FORMATS[0], 0.3, 90e6),
            rival("larger", FORMATS[1], 0.01, 120e6),
        ),
        "p_value": 0.01,
        "has_gain": True,
        "advice": "Use the mix: at equal bytes it is closer.",
    }
    return FoundMix(**{**fields, **changes})  # type: ignore[arg-type]


def searched(*mixes: FoundMix, **changes: object) -> Search:
    fields = {
        "model": Model("smol\x1b[31m", "i"),
        "baseline": "fp16",
        "backend": "gptq",
        "formats": FORMATS,
        "swapped": FORMATS[:1],
        "mixes": mixes or (mix(),),
        "frontier": (
            FrontierPoint(90_000_000, 4.3, 0.3),
            FrontierPoint(120_000_000, 8.3, 0.01),
            FrontierPoint(90_000_000, 4.3, 0.3, FORMATS[0]),
        ),
        "additivity": 0.9,
        "calibration_texts": ("c4.txt",),
        "sensitivity_texts": ("stories",),
        "evaluation_texts": ("wiki",),
        "notes": ("chosen",),
    }
    return Search(**{**fields, **changes})  # type: ignore[arg-type]
