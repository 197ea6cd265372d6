"""Bytes of the weights as they are held, and bits per weight."""

from __future__ import annotations

from evalkit.analysis.gate import BYTES, Limit
from evalkit.metrics._spec import Probe, ProbeMetric
from evalkit.records import Column, Measurement

WEIGHT_BYTES = ProbeMetric(
    name="weight_bytes",
    unit="bytes",
    direction="lower",
    version=2,
    definition="Bytes of storage of all parameters and quantization data (packed weights, scales,"
    " zeros, 16-bit rest) before anything has run; tied weights counted once.",
    per_machine=False,
    topic="memory",
    runs_model=False,
)
BITS_PER_WEIGHT = ProbeMetric(
    name="bits_per_weight",
    unit="bits",
    direction="lower",
    version=2,
    definition="8 × weight bytes over the number of parameters of the unquantized model.",
    per_machine=False,
    topic="memory",
    runs_model=False,
)
BITS_PER_QUANTIZED_WEIGHT = ProbeMetric(
    name="bits_per_quantized_weight",
    unit="bits",
    direction="lower",
    version=1,
    definition="8 × bytes of the quantized matrices (packed weights, scales, zeros, codebooks,"
    " indexes of groups) over the weights that they stand for. None of an unquantized model.",
    per_machine=False,
    topic="memory",
    runs_model=False,
)
SPECS = (WEIGHT_BYTES, BITS_PER_WEIGHT, BITS_PER_QUANTIZED_WEIGHT)
COLUMNS = (
    Column(WEIGHT_BYTES.name, "size", "size", measured_on="model", place=10, importance=30),
    Column(BITS_PER_WEIGHT.name, "bits", "bits", measured_on="model", place=75, importance=90),
)
LIMITS = (Limit("max_size", WEIGHT_BYTES.name, "5GB", "Bytes of the weights.", units=BYTES),)


def measure(probe: Probe) -> list[Measurement]:
    """Count the storage of `probe.model`, or of what it was unpacked from."""
    from evalkit.models.storage import parameter_count, quantized_weights, weight_bytes

    if probe.unpacked:
        categories = dict(probe.unpacked.weight_bytes)
        packed, weights = probe.unpacked.quantized
    else:
        categories = weight_bytes(probe.model, probe.formats)
        packed, weights = quantized_weights(probe.model, probe.formats)
    total, parameters = sum(categories.values()), parameter_count(probe.model)
    return [
        WEIGHT_BYTES.measured((float(total),), "storage", **categories),
        BITS_PER_WEIGHT.measured((8.0 * total / parameters,), "storage", parameters=parameters),
        BITS_PER_QUANTIZED_WEIGHT.measured(
            (8.0 * packed / weights,) if weights else (), "storage", weights=weights
        ),
    ]
