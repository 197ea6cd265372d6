"""The negative log-likelihood of the true token under the reference, in nats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.scoring.statistics import statistic

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.scoring.block import Block


@statistic(needs_reference=True)
def ref_nll(block: Block) -> Tensor:
    """lse − z[t] of the reference."""
    return block.p.nll
