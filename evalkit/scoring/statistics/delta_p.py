"""How much probability the true token gains or loses against the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.scoring.statistics import statistic

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.scoring.block import Block


@statistic(needs_reference=True)
def delta_p(block: Block) -> Tensor:
    """q[t] − p[t]."""
    return block.q.true - block.p.true
