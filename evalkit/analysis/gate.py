"""A gate: limits on what a variant may cost, passed only when the whole interval is inside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from evalkit.errors import UsageError, unknown
from evalkit.records import Comparison, Row, Value

# What a unit is worth; any other is that of the metric itself.
_UNITS = {"%": 0.01, "pp": 0.01, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)\s*(\S*)\s*")

BYTES = ("kB", "MB", "GB", "TB", "")
SPEEDS = ("tok/s", "")


@dataclass(frozen=True)
class Limit:
    """A limit that a metric can be judged by; the file of the metric declares it.

    `metric` is its name, or a function from a row to the names of all metrics that are judged.
    `units` may be written behind the number, "" for none; those unknown here are the metric's own.
    `judged` says what is held against the
    limit: the value, its increase as a share of the baseline's, or the loss against the baseline;
    always the worst end of the interval, the upper one unless it must be `at_least`.
    """

    name: str
    metric: str | Callable[[Row], list[str]]
    example: str
    help: str
    units: tuple[str, ...] = ("",)
    judged: Literal["value", "increase", "loss"] = "value"
    at_least: bool = False

    def metrics(self, row: Row) -> list[str]:
        """Names of the metrics of `row` that are judged."""
        return [self.metric] if isinstance(self.metric, str) else self.metric(row)

    def worst(self, value: Value) -> float | None:
        """The worst end of the interval; None where it was not measured."""
        if self.judged == "increase":
            return _increase(value)
        if self.judged == "loss":
            return None if value.delta_low is None else -value.delta_low
        end = value.low if self.at_least else value.high
        return end if end is not None else value.value


@dataclass(frozen=True)
class Judgement:
    """One limit on one metric of one variant: passed or not, and why in one line."""

    variant: str
    limit: str
    metric: str
    passed: bool
    message: str


def _increase(value: Value) -> float | None:
    """The upper end of the increase over the baseline, as a share of it."""
    if value.delta_high is None or value.delta is None or value.value is None:
        return None
    base = value.value - value.delta
    return value.delta_high / base if base else None


def parse_limits(words: Mapping[str, Any], known: Mapping[str, Limit]) -> dict[Limit, float]:
    """Bounds of limits from words such as {"max_task_loss": "1pp"}; `known` are all there are.

    Names may have hyphens. Raises UsageError for an unknown name, a value that is no number, or a
    unit that does not fit.
    """
    found = {}
    for key, text in words.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise unknown("limit", str(key), known)
        limit = known[name]
        match = _NUMBER.fullmatch(str(text))
        if isinstance(text, bool) or match is None or match[2] not in limit.units:
            raise UsageError(f"{name} {text!r}: write a number such as {limit.example}")
        found[limit] = float(match[1]) * _UNITS.get(match[2], 1.0)
    if not found:
        raise UsageError(f"no limit given: name at least one of {', '.join(known)}")
    return found


def judge(comparison: Comparison, bounds: Mapping[Limit, float]) -> list[Judgement]:
    """Every limit on every variant but the baseline (on the baseline where it is alone).

    A variant that failed and a metric that was not measured do not pass.
    """
    rows = comparison.rows[1:] or comparison.rows
    return [
        one for row in rows for limit, bound in bounds.items() for one in _row(row, limit, bound)
    ]


def _row(row: Row, limit: Limit, bound: float) -> Iterator[Judgement]:
    label, name = row.variant.label, limit.name
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
