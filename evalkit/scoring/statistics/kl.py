"""The Kullback-Leibler divergence of the scored model from the reference, in nats.

The differences of logits are taken before weighting, about their expected offset lse_p − lse_q, so
nothing of the size of the logits cancels. What is left is about 3e-7 a token, without bias.

Ids that the reference masks have p = 0 and add nothing; a masked id's logit may be -inf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.scoring.statistics import statistic

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.scoring.block import Block


@statistic(needs_reference=True)
def kl(block: Block) -> Tensor:
    """Σ p (ln p − ln q)."""
    import torch

    p, q = block.p, block.q
    offset = (p.lse - q.lse).float()
    difference = torch.sub(p.logits, q.logits, out=block.buffer).sub_(offset[:, None])
    if block.infinite_masks:
        difference.masked_fill_(p.softmax == 0, 0.0)
    difference.mul_(p.softmax)
    if not difference.is_cpu:
        # To ask whether a masked id is at -inf would wait for the card, block after block.
        return _finished(block, difference.nansum(-1), offset)
    weighted = difference.sum(-1)
    if not block.infinite_masks and not torch.isfinite(weighted).all():
        # Masked ids at -inf make inf − inf; from now on they are left out beforehand.
        block.infinite_masks = True
        return kl(block)
    return _finished(block, weighted, offset)


def _finished(block: Block, weighted: Tensor, offset: Tensor) -> Tensor:
    """The divergence (n,) of sums (n,) of differences less their `offset` (n,), weighted by p."""
    p, q = block.p, block.q
    return weighted.double() / p.total - (p.lse - q.lse - offset.double())
