"""A gate: limits on what a variant may cost, passed only when the whole interval is inside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from evalkit import numbers
from evalkit.analysis.verdicts import delta_of, loss_bounds, noise_of, rules_out
from evalkit.errors import UsageError, unknown
from evalkit.records import Comparison, Row, Value

# What a unit is worth; any other is that of the metric itself.
_UNITS = {"%": 0.01, "pp": 0.01, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_NUMBER = re.compile(r"\s*(-?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)\s*(\S*)\s*")

BYTES = ("kB", "MB", "GB", "TB", "")
SPEEDS = ("tok/s", "")


@dataclass(frozen=True)
class Limit:
    """A limit that a metric can be judged by; the file of the metric declares it.

    `metric` is its name, or a function from a row to the names of all metrics that are judged.
    `units` may be written behind the number, "" for none; those unknown here are the metric's own.
    `judged` says what is held against the limit: the value, by the worst end of its interval (the
    upper one unless it must be `at_least`); or the loss against the baseline, as a share of its
    value or in points, by the rule that gives the table its verdicts (`verdicts.judge`).
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

    def holds(self, value: Value, bound: float) -> bool | None:
        """Whether the limit holds at `bound`; None where the value was not measured."""
        if self.judged == "value":
            worst = self._worst(value)
            return None if worst is None else worst >= bound if self.at_least else worst <= bound
        if value.delta_low is None or value.delta_high is None:
            return None
        return rules_out(value, bound * self.scale(value))

    def worst_words(self, value: Value) -> str:
        """The worst end of the interval, or the largest loss in it, with its unit."""
        if self.judged == "value":
            return self.figure(self._worst(value) or 0.0, value)
        most = loss_bounds(delta_of(value), value.direction)[1]
        return self.figure(most / self.scale(value), value)

    def _worst(self, value: Value) -> float | None:
        end = value.low if self.at_least else value.high
        return end if end is not None else value.value

    def scale(self, value: Value) -> float:
        """What a limit of 1 is, in the unit of the value."""
        if self.judged == "loss":
            return 1.0
        return abs((value.value or 0.0) - (value.delta or 0.0))

    def figure(self, number: float, value: Value) -> str:
        """A number of this limit with its unit: "23.5 MB", "0.4 pp", "2.1 %", "0.0123 nats"."""
        if self.judged == "loss":
            return f"{numbers.signed(100 * number, 2)} pp"
        if self.judged == "increase" or "%" in self.units:
            return f"{numbers.plain(100 * number, 2)} %"
        if self.units == BYTES:
            return numbers.byte_size(number)
        if self.units == SPEEDS:
            return numbers.rate(number)
        return f"{numbers.small(number)} {value.unit}".rstrip()


@dataclass(frozen=True)
class Judgement:
    """One limit on one metric of one variant: passed or not, and why in one line."""

    variant: str
    limit: str
    metric: str
    passed: bool
    message: str


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
        if match[1].startswith("-"):
            raise UsageError(
                f"{name} {text!r}: a limit is 0 or more, as the loss and size that are allowed;"
                f" write a number such as {limit.example}"
            )
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
        passed = None if value is None else limit.holds(value, bound)
        if value is None or passed is None:
            yield Judgement(label, name, metric, False, f"{metric} was not measured")
            continue
        yield Judgement(label, name, metric, passed, _said(limit, metric, value, bound))


def _said(limit: Limit, metric: str, value: Value, bound: float) -> str:
    """The end of the interval that was held against the bound, both in readable units."""
    end, relation = ("lower", "at least") if limit.at_least else ("upper", "at most")
    what = f"{end} end of the interval" if limit.judged == "value" else "largest loss not ruled out"
    words = f"{metric}: {what} {limit.worst_words(value)}"
    scale = limit.scale(value)
    noise = noise_of(value) / scale if scale else 0.0
    if limit.judged != "value" and noise > bound:
        words += f", noise floor {limit.figure(noise, value)}"
    return f"{words}, allowed {relation} {limit.figure(bound, value)}"
