"""Seconds to load the variant, and to quantize it where a checkpoint was made."""

from __future__ import annotations

from evalkit.metrics._spec import Probe, ProbeMetric
from evalkit.records import Measurement

LOAD_SECONDS = ProbeMetric(
    name="load_seconds",
    unit="s",
    direction="lower",
    version=3,
    definition="Wall time from opening the checkpoint to a model ready on the device, the CUDA"
    " context made before. Its convention says whether the files were in the page cache (warm) or"
    " on the disk (cold).",
    runs_model=False,
)
QUANTIZE_SECONDS = ProbeMetric(
    name="quantize_seconds",
    unit="s",
    direction="lower",
    version=1,
    definition="Wall time of making the quantized checkpoint, calibration included, once.",
    runs_model=False,
)
SPECS = (LOAD_SECONDS, QUANTIZE_SECONDS)


def measure(probe: Probe) -> list[Measurement]:
    """Report the times recorded while the variant was made; not made means no value."""
    probe.check_runs_here()
    loaded = _timed(LOAD_SECONDS, probe.seconds.get("load"), f"wall time, files {probe.files}")
    return [loaded, _timed(QUANTIZE_SECONDS, probe.seconds.get("quantize"), "wall time")]


def _timed(spec: ProbeMetric, seconds: float | None, convention: str) -> Measurement:
    if seconds is None:
        return spec.measured((), "nothing was quantized")
    return spec.measured((seconds,), convention)
