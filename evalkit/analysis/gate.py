"""A gate: limits on what a variant may cost, passed only when the whole interval is inside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.errors import UsageError, unknown
from evalkit.records import Comparison, Row, Value

_UNITS = {"": 1.0, "%": 0.01, "pp": 0.01, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "tok/s": 1.0}
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)\s*(\S*)\s*")


@dataclass(frozen=True)
class Limit:
    """A limit by name: its units, and the worst end of the interval it is compared with."""

    name: str
    units: tuple[str, ...]
    example: str
    metrics: Callable[[Row], list[str]]
    worst: Callable[[Value], float | None]
    at_least: bool = False


@dataclass(frozen=True)
class Judgement:
    """One limit on one metric of one variant: passed or not, and why in one line."""

    variant: str
    limit: str
    metric: str
    passed: bool
    message: str


def _one(metric: str) -> Callable[[Row], list[str]]:
    return lambda row: [metric]


def _tasks(row: Row) -> list[str]:
    """Scores that are lost in points: shares of items, not perplexities."""
    return [
        name
        for name, value in row.metrics.items()
        if "." in name
        and not name.endswith((".flips", "perplexity", "bits_per_byte"))
        and value.value is not None
        and 0 <= value.value <= 1
    ]


def _increase(value: Value) -> float | None:
    """The upper end of the increase over the baseline, as a share of it."""
    if value.delta_high is None or value.delta is None or value.value is None:
        return None
    base = value.value - value.delta
    return value.delta_high / base if base else None


def _loss(value: Value) -> float | None:
    return None if value.delta_low is None else -value.delta_low


def _highest(value: Value) -> float | None:
    return value.high if value.high is not None else value.value


def _lowest(value: Value) -> float | None:
    return value.low if value.low is not None else value.value


LIMITS = {
    limit.name: limit
    for limit in (
        Limit("max_perplexity_increase", ("%",), "2%", _one("perplexity"), _increase),
        Limit("max_task_loss", ("pp", "%"), "1pp", _tasks, _loss),
        Limit("max_kl", ("",), "0.05", _one("kl_divergence_mean"), _highest),
        Limit("min_top1", ("%",), "97%", _one("top1_agreement"), _lowest, at_least=True),
        Limit("max_memory", ("kB", "MB", "GB", "TB", ""), "8GB", _one("peak_memory_bytes"),
              _highest),
        Limit("max_size", ("kB", "MB", "GB", "TB", ""), "5GB", _one("weight_bytes"), _highest),
        Limit("min_decode_speed", ("tok/s", ""), "40", _one("decode_tokens_per_second"), _lowest,
              at_least=True),
        Limit("min_prefill_speed", ("tok/s", ""), "2000", _one("prefill_tokens_per_second"),
              _lowest, at_least=True),
    )
}  # fmt: skip


def parse_limits(words: Mapping[str, Any]) -> dict[str, float]:
    """Limits by name from words such as {"max_task_loss": "1pp"}; names may have hyphens.

    Raises UsageError for an unknown name, a value that is no number, or a unit that does not fit.
    """
    found = {}
    for key, text in words.items():
        name = str(key).replace("-", "_")
        if name not in LIMITS:
            raise unknown("limit", str(key), LIMITS)
        limit = LIMITS[name]
        match = _NUMBER.fullmatch(str(text))
        if isinstance(text, bool) or match is None or match[2] not in limit.units:
            raise UsageError(f"{name} {text!r}: write a number such as {limit.example}")
        found[name] = float(match[1]) * _UNITS[match[2]]
    if not found:
        raise UsageError(f"no limit given: name at least one of {', '.join(LIMITS)}")
    return found


def judge(comparison: Comparison, limits: Mapping[str, float]) -> list[Judgement]:
    """Every limit on every variant but the baseline (on the baseline where it is alone).

    A variant that failed and a metric that was not measured do not pass.
    """
    rows = comparison.rows[1:] or comparison.rows
    return [one for row in rows for name, bound in limits.items() for one in _row(row, name, bound)]


def _row(row: Row, name: str, bound: float) -> Iterator[Judgement]:
    label, limit = row.variant.label, LIMITS[name]
    if row.status != "ok":
        yield Judgement(label, name, "", False, f"{row.status}: {row.message}")
        return
    metrics = limit.metrics(row)
    if not metrics:
        yield Judgement(label, name, "", False, "not measured: no task was compared")
    for metric in metrics:
        value = row.metrics.get(metric)
        worst = None if value is None else limit.worst(value)
        if worst is None:
            yield Judgement(label, name, metric, False, f"{metric} was not measured")
            continue
        passed = worst >= bound if limit.at_least else worst <= bound
        end = "lower" if limit.at_least else "upper"
        relation = "at least" if limit.at_least else "at most"
        said = f"{metric}: {end} end of the interval {worst:.6g}, allowed {relation} {bound:.6g}"
        yield Judgement(label, name, metric, passed, said)
