"""Seconds to load the variant, and to quantize it where a checkpoint was made."""

from __future__ import annotations

from evalkit.metrics._spec import Probe, ProbeMetric
from evalkit.records import Measurement

LOAD_SECONDS = ProbeMetric(
    name="load_seconds",
    unit="s",
    direction="lower",
    version=1,
    definition="Wall time from opening the checkpoint to a model ready on the device.",
)
QUANTIZE_SECONDS = ProbeMetric(
    name="quantize_seconds",
    unit="s",
    direction="lower",
    version=1,
    definition="Wall time of making the quantized checkpoint, calibration included, once.",
)
SPECS = (LOAD_SECONDS, QUANTIZE_SECONDS)


def measure(probe: Probe) -> list[Measurement]:
    """Report the times recorded while the variant was made; not made means no value."""
    return [
        spec.measured((probe.seconds[key],), "wall time")
        if key in probe.seconds
        else spec.measured((), "nothing was quantized")
        for spec, key in ((LOAD_SECONDS, "load"), (QUANTIZE_SECONDS, "quantize"))
    ]
