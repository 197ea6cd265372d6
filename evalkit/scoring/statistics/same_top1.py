"""Whether scored model and reference have the same most probable token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.scoring.statistics import statistic

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.scoring.block import Block

_TOP_BLOCK = 256


@statistic(needs_reference=True)
def same_top1(block: Block) -> Tensor:
    """1 where both give the same token the highest probability (the first of equals), else 0."""
    return _top1(block.q.logits) == _top1(block.p.logits)


def _top1(logits: Tensor) -> Tensor:
    """Index (n,) of the largest logit of each row, the first of equals.

    On the CPU argmax takes longer than a softmax; the maximum of blocks, then a search in one
    block, is five times as fast.
    """
    import torch

    count = logits.shape[1] // _TOP_BLOCK
    if logits.device.type != "cpu" or count < 2:
        return logits.argmax(-1)
    whole = logits[:, : count * _TOP_BLOCK].unflatten(1, (count, _TOP_BLOCK))
    value, block = whole.amax(-1).max(-1)
    inside = whole[torch.arange(len(logits)), block].argmax(-1)
    best = block * _TOP_BLOCK + inside
    rest = logits[:, count * _TOP_BLOCK :]
    if rest.shape[1]:
        other, place = rest.max(-1)
        best = torch.where(other > value, count * _TOP_BLOCK + place, best)
    return best
