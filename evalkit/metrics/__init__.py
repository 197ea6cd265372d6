"""What is measured: one file a metric family, discovered by its name."""

from __future__ import annotations

from evalkit import plugins
from evalkit.metrics._spec import Probe, ProbeMetric, Protocol, TokenMetric

__all__ = [
    "Probe",
    "ProbeMetric",
    "Protocol",
    "TokenMetric",
    "definitions",
    "probe_metrics",
    "token_metrics",
]


def token_metrics(convention: str, *, is_baseline: bool) -> list[TokenMetric]:
    """The token metrics that apply under a window convention.

    The baseline has no divergence from itself; word and byte perplexity need the counts that only
    the convention lm-eval defines.
    """
    return [
        spec
        for spec in _specs()
        if isinstance(spec, TokenMetric)
        and (not is_baseline or set(spec.needs) <= {"nll"})
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
