"""Whether two computations of the same numbers differ by rounding only."""

from __future__ import annotations

import torch
from torch import Tensor

# A model sets the logits of ids it never emits to the minimum of float16 or lower.
MASKED_BELOW = -3e4
# Sixteen bits and another shape change the hidden states of a deep model by a few percent.
_LARGEST_ROUNDING = 0.05
# Of most tokens, through packed weights.
_LARGEST_BETWEEN_KERNELS = 0.2


def same_logits(one: Tensor, other: Tensor) -> bool:
    """Whether two computations of the same logits differ by rounding only.

    Rounding: two units in the last place of the largest logit, or 1e-5 of it in float32. Masked
    ids must be the same ones.
    """
    if one.shape != other.shape:
        return False
    masked = other <= MASKED_BELOW
    if not torch.equal(one <= MASKED_BELOW, masked):
        return False
    left, right = (x.float().masked_fill(masked, 0.0) for x in (one, other))
    coarsest = max(torch.finfo(one.dtype).eps, torch.finfo(other.dtype).eps)
    allowed = max(2 * coarsest, 1e-5) * float(right.abs().max())
    return float((left - right).abs().max()) <= allowed


def row_difference(one: Tensor, other: Tensor) -> float:
    """How far hidden states or logits lie apart, as a part of their length; inf in other shapes."""
    if one.shape != other.shape:
        return float("inf")
    left, right = (x.float().clamp(min=MASKED_BELOW) for x in (one, other))
    return float((left - right).norm() / right.norm())


def same_rows(one: Tensor, other: Tensor) -> bool:
    """Whether hidden states or logits differ no more than by rounding; their shapes must agree."""
    return row_difference(one, other) <= _LARGEST_ROUNDING


def same_mostly(one: Tensor, other: Tensor) -> bool:
    """Whether most rows (…, width) are those of the same weights, run by two kernels.

    Kernels that compute in bfloat16 send tokens to other experts, whose rows then differ; with
    other weights nearly all rows differ by more than their own length.
    """
    left, right = (x.float().clamp(min=MASKED_BELOW).flatten(0, -2) for x in (one, other))
    change = (left - right).norm(dim=-1) / right.norm(dim=-1)
    return float(change.median()) <= _LARGEST_BETWEEN_KERNELS
