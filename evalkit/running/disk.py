"""What is written to disk, summed before anything starts.

Only what is slow to make again is kept: the baseline's hidden states, the values of every token,
and the checkpoints of methods that are calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence

from evalkit.backends import keeps
from evalkit.running.job import Job

# Tokenizers of the day make a token of four bytes of English; fewer elsewhere.
_BYTES_A_TOKEN = 3
# Window, position and some ten values in 32 bit, for each token of each variant.
_VALUES_A_TOKEN = 48
# Scales, zero points and what stays in 16 bit, beside the packed weights of a quantized checkpoint.
_BESIDE_PACKED = 1.15


def bytes_written(jobs: Sequence[Job], text_bytes: float = 0.0) -> float:
    """About how many bytes `jobs` on texts of `text_bytes` write into the store."""
    if not jobs:
        return 0.0
    checkpoint = jobs[0].checkpoint
    weights = checkpoint.weight_bytes
    kept = sum(_share(job) * weights for job in jobs if keeps(job.variant))
    states = checkpoint.hidden_size * state_bytes(jobs[0])
    return kept + text_bytes / _BYTES_A_TOKEN * (states + len(jobs) * _VALUES_A_TOKEN)


def state_bytes(job: Job) -> int:
    """Bytes of an element of the hidden states: a CPU runs the quality pass in float32."""
    return 4 if job.device == "cpu" or job.variant.precision == "fp32" else 2


def _share(job: Job) -> float:
    """A quantized checkpoint's part of the original in 16 bit."""
    bits = job.variant.precision.removeprefix("int")
    return min(1.0, _BESIDE_PACKED * int(bits) / 16) if bits.isdigit() else 1.0
