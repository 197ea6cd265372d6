"""Per-token statistics of logits: one file each, whose function has the file's name.

With z the logits of a model, lse = ln Σ exp z, the true token t, and the distributions q of the
scored model and p of the reference:

nll         lse − z[t], the negative log-likelihood of the true token, in nats
ref_nll     the same under the reference
kl          Σ p (ln p − ln q), the Kullback-Leibler divergence of the model q from the reference p
tv          ½ Σ |p − q|, the total variation
delta_p     q[t] − p[t]
same_top1   1 where both give the same token the highest probability (the first of equals), else 0

`evalkit.scoring.token_statistics` computes those that are asked for in one pass over a block of
tokens; what they share is in `evalkit.scoring.block`. Declarations import no torch: what a metric
can be measured of is known before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit import plugins
from evalkit.errors import EvalkitError

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.scoring.block import Block


@dataclass(frozen=True)
class Statistic:
    """A function from a block of n tokens to one number a token, a tensor of shape (n,).

    Without `needs_reference` the statistic is measured of the baseline too.
    """

    function: Callable[[Block], Tensor]
    needs_reference: bool

    def __call__(self, block: Block) -> Tensor:
        """The statistic of the tokens of `block`; raises EvalkitError for another shape."""
        found = self.function(block)
        if found.shape != block.targets.shape:
            raise EvalkitError(
                f"statistic {self.function.__name__!r} gives a tensor of shape"
                f" {tuple(found.shape)} for {len(block.targets)} tokens: give one number a token"
            )
        return found


def statistic(*, needs_reference: bool) -> Callable[[Callable[[Block], Tensor]], Statistic]:
    """Declare the decorated function as a statistic."""
    return lambda function: Statistic(function, needs_reference)


def find_statistic(name: str) -> Statistic:
    """The statistic `name`; raises UsageError with a suggestion if there is none."""
    found = plugins.function("statistics", name)
    if not isinstance(found, Statistic):
        raise EvalkitError(f"statistic {name!r} is not declared: decorate it with @statistic(…)")
    return found
