"""What quantizing did to the weights, apart from what the variant's own kernels round.

A variant that computes in another dtype than the baseline differs from it by that rounding too.
Where its weights can be unpacked, a sample of the windows is scored a second time with their values
in the baseline's arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evalkit import numbers
from evalkit.analysis.summaries import PAIRED_SUMMARIES, summarise
from evalkit.analysis.values import value_of
from evalkit.records import Value

if TYPE_CHECKING:
    from evalkit.analysis.compare import Measured

MEASUREMENT = "weights_only"
_SHOWN = "kl_divergence_mean"


def weights_only_values(one: Measured) -> dict[str, Value]:
    """Each divergence of the weights alone, as `weights_only_METRIC`; empty where not measured.

    The details hold the value over the same windows with the variant's own kernels.
    """
    holder = one.measurements().get(MEASUREMENT)
    if holder is None or one.weights is None or one.tokens is None:
        return {}
    found = {}
    own = one.tokens.restricted(one.weights)
    n = int(one.weights.windows["scored"].sum())
    for metric, spec in holder.details["metrics"].items():
        column, summary = spec["column"], spec["summary"]
        if summary in PAIRED_SUMMARIES:
            continue
        details = {
            "own_kernel": summarise(own, column, summary).estimate,
            "dtype": holder.details["dtype"],
            "own_dtype": holder.details["own_dtype"],
        }
        interval = summarise(one.weights, column, summary)
        found[f"{MEASUREMENT}_{metric}"] = value_of(
            interval, n, None, "changed", details, spec["unit"]
        )
    return found


def weights_only_notes(metrics: Mapping[str, Value]) -> list[str]:
    """A line with the divergence of the weights alone, beside the kernel's own."""
    value = metrics.get(f"{MEASUREMENT}_{_SHOWN}")
    if value is None:
        return []
    known, alone = value.details, numbers.small(value.value or 0.0)
    return [
        f"KL of its weights alone, in the baseline's {known['dtype']}: {alone} {value.unit} over"
        f" {value.n:,} tokens; with the rounding of its own {known['own_dtype']}:"
        f" {numbers.small(known['own_kernel'])}"
    ]
