"""When tasks are decided: losses shown to be smaller or larger than the margin, at every look.

Each task makes two claims that can be refuted, "the loss is at least the margin" and "the loss is
at most the margin". Their anytime p-values (evalkit.analysis.betting) may be read after every item;
with several tasks all of them enter Holm's adjustment at every look, so that the chance of a single
wrong decision in all tasks and looks together is at most the significance. That a variant is better
or worse than the baseline at all decides nothing: it would stop with the margin still open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from evalkit.analysis.betting import Draws, anytime_p, confidence_sequence
from evalkit.analysis.blocks import FloatArray, IndexArray
from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.paired import holm

SIGNIFICANCE = 0.05


class Decision(StrEnum):
    """What was shown of a task's loss at the margin."""

    SMALLER = "smaller than the margin"
    LARGER = "larger than the margin"
    OPEN = "undecided"


@dataclass(frozen=True)
class Drawn:
    """How the items of a task were drawn that a variant answered until it was decided.

    Attributes:
        order: the items asked, by their number in the task, in the order drawn, shape (items,).
        of: items of the whole task.
        largest: items of its largest group of items that belong together.
        whole: hash of what all its items ask.
    """

    order: IndexArray
    of: int
    largest: int
    whole: str


@dataclass(frozen=True)
class Loss:
    """What one task has shown of a variant's loss: the draws of its loss, item by item.

    `draws` are baseline minus variant where higher scores are better, between -1 and 1.
    """

    draws: Draws

    def p_values(self, margin: float) -> tuple[float, float]:
        """P of "the loss is at least the margin", and of "at most the margin"; at every look."""
        return (
            float(anytime_p(self.draws.mirrored(), -margin)),
            float(anytime_p(self.draws, margin)),
        )

    def difference(self, confidence: float = 0.95) -> Interval:
        """Variant minus baseline with bounds valid at every look."""
        return confidence_sequence(self.draws.mirrored(), confidence)


def paired_loss(
    baseline: FloatArray,
    variant: FloatArray,
    clusters: IndexArray,
    *,
    largest: int,
    higher_is_better: bool = True,
) -> Loss:
    """The loss of a variant over items that both have answered, in the order they were drawn.

    Args:
        baseline, variant: scores between 0 and 1, shape (items,).
        clusters: the group of each item, shape (items,). Groups are drawn and bet on whole, so the
            items of one follow each other.
        largest: items of the largest group of the task, drawn or not.
        higher_is_better: whether a higher score is the better one.
    """
    loss = (baseline - variant) if higher_is_better else (variant - baseline)
    if len(loss) == 0:
        return Loss(Draws(loss, loss, largest=largest))
    starts = np.flatnonzero(np.diff(clusters, prepend=clusters[0] - 1))
    sizes = np.diff(np.append(starts, len(loss))).astype(np.float64)
    return Loss(Draws(np.add.reduceat(loss, starts), sizes, largest=largest))


def decide(
    p_values: Sequence[tuple[float, float]], significance: float = SIGNIFICANCE
) -> tuple[Decision, ...]:
    """What is decided of each task, from the two p-values of each; (1, 1) for one not begun.

    Holm (1979) over the two claims of every task: nothing is assumed of how they depend.
    """
    adjusted = holm([p for pair in p_values for p in pair])
    found = []
    for smaller, larger in zip(adjusted[::2], adjusted[1::2], strict=True):
        if min(smaller, larger) > significance:
            found.append(Decision.OPEN)
        else:
            found.append(Decision.SMALLER if smaller < larger else Decision.LARGER)
    return tuple(found)


def shared_confidence(tasks: int, confidence: float = 0.95) -> float:
    """The confidence of each task's bounds with which those of all hold together (Bonferroni)."""
    return 1 - (1 - confidence) / tasks


def mean_difference(parts: Sequence[Interval]) -> Interval:
    """Mean over tasks of differences whose bounds hold together, wherever each task stopped."""
    estimate, low, high = (
        float(np.mean([getattr(part, name) for part in parts]))
        for name in ("estimate", "low", "high")
    )
    return Interval(estimate, low, high)
