"""The total variation between scored model and reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.scoring.statistics import statistic

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.scoring.block import Block


@statistic(needs_reference=True)
def tv(block: Block) -> Tensor:
    """½ Σ |p − q|, between 0 and 1."""
    import torch

    difference = torch.sub(block.p.softmax, block.q.softmax, out=block.buffer)
    return difference.abs_().sum(-1) / 2
