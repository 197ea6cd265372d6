"""Bytes of the weights as they are held, and bits per weight."""

from __future__ import annotations

from evalkit.analysis.gate import BYTES, Limit
from evalkit.metrics._spec import Probe, ProbeMetric
from evalkit.records import Column, Measurement

WEIGHT_BYTES = ProbeMetric(
    name="weight_bytes",
    unit="bytes",
    direction="lower",
    version=1,
    definition="Bytes of storage of all parameters and quantization data (packed weights, scales,"
    " zeros, 16-bit rest); tied weights counted once.",
    per_machine=False,
    topic="memory",
    runs_model=False,
)
BITS_PER_WEIGHT = ProbeMetric(
    name="bits_per_weight",
    unit="bits",
    direction="lower",
    version=1,
    definition="8 × weight bytes over the number of parameters of the unquantized model.",
    per_machine=False,
    topic="memory",
    runs_model=False,
)
SPECS = (WEIGHT_BYTES, BITS_PER_WEIGHT)
COLUMNS = (Column(WEIGHT_BYTES.name, "size", "size", measured_on="model", place=10),)
LIMITS = (Limit("max_size", WEIGHT_BYTES.name, "5GB", "Bytes of the weights.", units=BYTES),)


def measure(probe: Probe) -> list[Measurement]:
    """Count the storage of `probe.model`, or of what it was unpacked from."""
    from evalkit.models.storage import parameter_count, weight_bytes

    unpacked = probe.unpacked
    held = unpacked.weight_bytes if unpacked else weight_bytes(probe.model, probe.formats)
    categories = dict(held)
    total, parameters = sum(categories.values()), parameter_count(probe.model)
    return [
        WEIGHT_BYTES.measured((float(total),), "storage", **categories),
        BITS_PER_WEIGHT.measured((8.0 * total / parameters,), "storage", parameters=parameters),
    ]
