"""Looking at all numbers of a large tensor without taking memory for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Elements looked at in one go: 16 MB in float32.
SLICE = 2**22


def finite_and_some(tensor: Tensor) -> tuple[bool, bool]:
    """Whether all numbers of `tensor` are finite, and whether any is not zero."""
    finite, some = True, False
    for part in _slices(tensor):
        # torch knows little of the types of one byte.
        wide = part if part.element_size() > 1 else part.float()
        finite = finite and bool(torch.isfinite(wide).all())
        some = some or bool(wide.any())
    return finite, some


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers, whatever their types."""
    pairs = zip(_slices(one), _slices(other), strict=True)
    return all(torch.equal(mine.float(), theirs.float()) for mine, theirs in pairs)


def _slices(tensor: Tensor) -> Iterator[Tensor]:
    """Rows of `tensor` with about `SLICE` elements together, without a copy."""
    if not tensor.ndim or tensor.numel() <= SLICE:
        yield tensor
        return
    rows = max(1, SLICE * len(tensor) // tensor.numel())
    for low in range(0, len(tensor), rows):
        yield tensor[low : low + rows]
