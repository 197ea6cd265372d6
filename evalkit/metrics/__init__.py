"""What is measured: one file a metric family, discovered by its name."""

from __future__ import annotations

from evalkit import plugins
from evalkit.metrics._spec import ProbeMetric, Protocol, TokenMetric
from evalkit.scoring.statistics import find_statistic

__all__ = [
    "ProbeMetric",
    "Protocol",
    "TokenMetric",
    "definitions",
    "probe_metrics",
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


def probe_metrics() -> list[ProbeMetric]:
    """The metrics measured on a loaded model: size, memory, speed."""
    return [spec for spec in _specs() if isinstance(spec, ProbeMetric)]


def definitions() -> list[tuple[str, str, str]]:
    """Name, unit and definition of every metric, for the methods section of a report."""
    return [(spec.name, spec.unit, spec.definition) for spec in _specs()]


def _specs() -> list[TokenMetric | ProbeMetric]:
    modules = [plugins.load("metrics", name) for name in plugins.names("metrics")]
    return [spec for module in modules for spec in module.SPECS]
