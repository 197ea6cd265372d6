"""The Jensen-Shannon divergence of the scored model and the reference, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from evalkit.scoring.block import Block
from evalkit.scoring.statistics import statistic


@statistic(needs_reference=True)
def jensen_shannon(block: Block) -> Tensor:
    """H(m) − ½ H(p) − ½ H(q) with m = ½ (p + q), in nats: between 0 and ln 2."""
    p, q = block.p.probabilities(), block.q.probabilities()
    entropy = torch.special.entr
    return (entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2).sum(-1)
