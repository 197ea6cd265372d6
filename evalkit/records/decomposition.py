"""What a variant's weights do, and what the kernel that serves them does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Divergence:
    """A mean KL divergence in nats, or the difference of two, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Decomposition:
    """Mean KL divergences over the same `tokens`; they do not add up, and none is a share.

    `weights` is that of the unpacked weights in the baseline's arithmetic (`dtype`) and kernels,
    `served` that of the variant's own kernels (`kernel`), both from the baseline; `difference` is
    the second less the first, paired by tokens, and may be negative. `direct` is that of the own
    kernels from the unpacked weights: what kernels, their arithmetic and quantized activations do.
    All are None where `reason` says why they were not measured. `noise_floor` is the divergence
    that another order of sums alone gives.
    """

    tokens: int = 0
    dtype: str = ""
    kernel: str = ""
    weights: Divergence | None = None
    served: Divergence | None = None
    difference: Divergence | None = None
    direct: Divergence | None = None
    noise_floor: float | None = None
    reason: str = ""
