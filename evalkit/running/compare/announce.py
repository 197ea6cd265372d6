"""What a comparison says before its first step: what it will do, and when it is finished."""

from __future__ import annotations

import time
from collections.abc import Iterator

from evalkit.numbers import counted
from evalkit.plain_text import duration
from evalkit.progress import Event, Listener, Planned
from evalkit.running.compare.expected import Expectation
from evalkit.running.compare.plan import ComparePlan

_MAKING = ("writing calibration text", "quantizing")
# From this share of the time on, quantizing is worth a word.
_LARGE_SHARE = 0.3
_SHORTEST_WORTH_A_WORD = 60.0


def tell_plan(expected: Expectation, plan: ComparePlan, listener: Listener) -> None:
    """Send the variants, steps and time of what is left to be measured; nothing where none is."""
    for job in plan.jobs:
        if job.refusal:
            listener(Event(job.variant.label, "", message=f"cannot run: {job.refusal}"))
    if expected.unknown:
        why = f"how long it takes is not known, as {expected.unknown}"
        listener(Event("evalkit", "", message=why))
    if expected.whole is None:
        return
    # Workers measure at once, in no order.
    steps = () if plan.ray else tuple(_steps(expected, plan))
    listener(Event("evalkit", "", message=_sentence(expected), plan=steps))


def _steps(expected: Expectation, plan: ComparePlan) -> Iterator[Planned]:
    for job in plan.jobs:
        for step in expected.steps.get(job.variant.text, ()):
            yield Planned(job.variant.label, step.name, step.time.seconds)


def _sentence(expected: Expectation) -> str:
    assert expected.whole is not None
    steps = [step for some in expected.steps.values() for step in some]
    left = sum(step.time.seconds for step in steps)
    end = time.strftime("%H:%M", time.localtime(time.time() + left))
    words = (
        f"{counted(len(expected.steps), 'variant')} in {counted(len(steps), 'step')}, about"
        f" {duration(left)}, done at {end} (within a factor of {expected.whole.factor:.1f}, told"
        f" from {expected.whole.source})"
    )
    making = sum(step.time.seconds for step in steps if step.name in _MAKING)
    if making > max(_SHORTEST_WORTH_A_WORD, _LARGE_SHARE * left):
        words += (
            f"; quantizing takes {100 * making / left:.0f} % of it: samples=N of the variant, or"
            " int4@bitsandbytes, shortens it"
        )
    return words
