"""What a bare word becomes for one model: the first of its methods that takes the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit import plugins
from evalkit.backends._checks import check_unquantized
from evalkit.backends._parse import ladder
from evalkit.errors import VariantError
from evalkit.records import Variant

if TYPE_CHECKING:
    from evalkit.models.checkpoint import Checkpoint


def settled(checkpoint: Checkpoint, variant: Variant) -> tuple[Variant, str]:
    """`variant` as it will be made of `checkpoint`, and why where that is not its first choice.

    An explicit form is returned as it is. Raises VariantError, with the reason of each method,
    where a bare word has none that takes the model.
    """
    steps = ladder(variant)
    if len(steps) == 1:
        return variant, ""
    check_unquantized(checkpoint, variant)
    reasons: list[str] = []
    for step in steps:
        try:
            plugins.load("backends", step.backend).check(checkpoint, step)
        except VariantError as error:
            # What to use instead follows here.
            reasons.append(str(error).partition("; use ")[0])
            continue
        return step, f"{variant.asked} is {step.text} here: {reasons[0]}" if reasons else ""
    raise VariantError(f"{variant.asked}: no method takes this model: {'; '.join(reasons)}")


def next_method(variant: Variant) -> Variant | None:
    """What a bare word becomes where the backend of `variant` fails; None for no other."""
    steps = ladder(variant)
    tried = [place for place, step in enumerate(steps) if step.backend == variant.backend]
    left = steps[tried[-1] + 1 :] if tried else ()
    return left[0] if left else None
