"""The mean Jensen-Shannon divergence, its column in the table and its limit of the gate."""

from __future__ import annotations

from evalkit.metrics import Column, Limit, TokenMetric

JENSEN_SHANNON = TokenMetric(
    name="jensen_shannon_mean",
    unit="nats",
    direction="lower",
    version=1,
    needs=("jensen_shannon",),
    column="jensen_shannon",
    values=lambda statistics: statistics["jensen_shannon"],
    summary="mean",
    definition="mean over scored tokens of the Jensen-Shannon divergence of p and q",
)
SPECS = (JENSEN_SHANNON,)
COLUMNS = (Column(JENSEN_SHANNON.name, "JS", "divergence", place=65),)
LIMITS = (Limit("max_js", JENSEN_SHANNON.name, "0.01", "Mean Jensen-Shannon divergence, in nats."),)
