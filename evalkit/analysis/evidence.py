"""Evidence in words: paired differences and divergences with their intervals and sizes."""

from __future__ import annotations

from collections.abc import Mapping

from evalkit import numbers
from evalkit.records import Value, Word

KL, TOP1 = "kl_divergence_mean", "top1_agreement"


def paired_words(metric: str, value: Value, is_share: bool) -> str:
    """ "perplexity + 1.1 % [0.8, 1.4], 4,678 tokens, more of the same documents".

    A share of items is in percentage points, any other value in percent of the baseline's.
    """
    if value.delta is None:
        return f"{metric} {value.verdict}"
    scale, unit = 100.0, "pp"
    if not is_share:
        reference = (value.value or 0.0) - value.delta
        scale, unit = (100 / abs(reference), "%") if reference else (1.0, "")
    difference = numbers.difference(
        scale * value.delta, _scaled(value.delta_low, scale), _scaled(value.delta_high, scale),
        least=1, unit=unit,
    )  # fmt: skip
    units = "items" if "." in metric else "tokens"
    return ", ".join(filter(None, [f"{metric} {difference}", f"{value.n:,} {units}", value.claim]))


def divergence_words(metrics: Mapping[str, Value]) -> list[str]:
    """How much changed, in whatever direction; empty where no divergence was measured."""
    kl, top1 = metrics.get(KL), metrics.get(TOP1)
    if kl is None or kl.value is None:
        return []
    words = f"mean KL {numbers.small(kl.value)} nats"
    if top1 is not None and top1.value is not None:
        words += f", {numbers.percent(1 - top1.value)} of the likeliest tokens changed"
    if kl.verdict == Word.NO_LOSS and kl.details.get("noise_floor"):
        words += ", within the noise floor"
    return [words]


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else scale * value
