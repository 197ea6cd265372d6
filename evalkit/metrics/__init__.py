"""What is measured: one file a metric family, with its table columns, their place, and limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Set
from types import ModuleType

from evalkit import plugins
from evalkit.analysis.gate import Limit
from evalkit.errors import EvalkitError
from evalkit.metrics._spec import Probe, ProbeMetric, Protocol, TokenMetric, Topic
from evalkit.records import Column
from evalkit.scoring.statistics import find_statistic

__all__ = [
    "Column",
    "Limit",
    "Probe",
    "ProbeMetric",
    "Protocol",
    "TokenMetric",
    "Topic",
    "asked_columns",
    "definitions",
    "gate_limits",
    "probe_metrics",
    "table_columns",
    "token_metrics",
]


# What a server says of given text: the likelihood of its tokens.
SERVED_STATISTICS = frozenset({"nll"})


def token_metrics(
    convention: str, *, is_baseline: bool, divergence: bool = True
) -> list[TokenMetric]:
    """The token metrics that apply under a window convention.

    The baseline has no divergence from itself: its metrics need no statistic of a reference.
    Without `divergence` there are no distributions, only the likelihood of the text that a server
    gives. Word and byte perplexity need the counts that only the convention lm-eval defines.
    """
    return [
        spec
        for spec in _specs()
        if isinstance(spec, TokenMetric)
        and (divergence or set(spec.needs) <= SERVED_STATISTICS)
        and not (is_baseline and any(find_statistic(name).needs_reference for name in spec.needs))
        and (convention == "lm-eval" or not spec.summary.startswith("exp_per_"))
    ]


def probe_metrics(topic: Topic) -> list[ProbeMetric]:
    """The metrics of "memory" (size with it) or of "speed", measured on a loaded model."""
    return [s for s in _specs() if isinstance(s, ProbeMetric) and s.topic == topic]


def definitions() -> list[tuple[str, str, str]]:
    """Name, unit and definition of every metric, for the methods section of a report."""
    return [(spec.name, spec.unit, spec.definition) for spec in _specs()]


def table_columns() -> tuple[Column, ...]:
    """The columns that metrics declare, in the order of the table."""
    found = [column for module in _modules() for column in getattr(module, "COLUMNS", ())]
    return tuple(sorted(found, key=lambda column: column.place))


def asked_columns(wanted: Set[str]) -> tuple[Column, ...]:
    """The columns of the table, marked where they show none of the `wanted` parts."""
    topics = {spec.name: spec.topic for spec in _specs() if isinstance(spec, ProbeMetric)}
    parts = {"texts": "text", "tasks": "tasks"}
    return tuple(
        dataclasses.replace(
            column,
            asked=(topics.get(column.metric) or parts.get(column.measured_on)) in wanted,
        )
        for column in table_columns()
    )


def gate_limits() -> dict[str, Limit]:
    """The limits that metrics declare, by name; torch is not imported.

    Raises EvalkitError where two metrics declare a limit of the same name.
    """
    found: dict[str, Limit] = {}
    for module in _modules():
        for limit in getattr(module, "LIMITS", ()):
            if limit.name in found:
                raise EvalkitError(
                    f"{module.__name__} declares the limit {limit.name} again: give it another name"
                )
            found[limit.name] = limit
    return found


def _specs() -> list[TokenMetric | ProbeMetric]:
    return [spec for module in _modules() for spec in module.SPECS]


def _modules() -> list[ModuleType]:
    return [plugins.load("metrics", name) for name in plugins.names("metrics")]
