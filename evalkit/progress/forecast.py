"""Where everything stands and how long the rest takes, corrected by what has been finished."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evalkit.plain_text import clean, duration
from evalkit.progress.events import Event, Planned

# From this part of a step on, what was seen of it counts alone.
_SEEN = 0.25
# Steps of another name correct a step by no more than this: a plan may be that far off in all, and
# what differs by more is a matter of the step.
_FROM_OTHERS = 3.0


@dataclass(frozen=True)
class _Finished:
    step: Planned
    seconds: float


class Forecast:
    """Hears every event; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._plan: Sequence[Planned] = ()
        self._index: int | None = None
        self._finished: list[_Finished] = []
        self._all_begun = self._begun = clock()
        self.current = Event("", "")

    def hear(self, event: Event) -> bool:
        """Take note of `event`; whether another step or stage begins with it."""
        if event.plan:
            self._plan, self._index, self._finished = event.plan, None, []
            self._all_begun = self._clock()
            # What came before the first step is over.
            self.current = Event("", "")
            return True
        if not event.stage:
            return False
        index = self._place(event)
        changed = index != self._index if index is not None else self._name(event) != self.name
        if changed:
            self._finish()
            self._index, self._begun = index, self._clock()
        self.current = event
        return changed

    @property
    def planned(self) -> bool:
        """Whether the current step is one of the plan."""
        return self._index is not None

    @property
    def name(self) -> str:
        """The current step: "variant 2 of 3, int8: texts"."""
        return self._name(self.current)

    def elapsed(self) -> float:
        """Seconds since the current step began."""
        return self._clock() - self._begun

    def gone(self) -> float:
        """Seconds since the plan was told."""
        return self._clock() - self._all_begun

    def left(self) -> float | None:
        """Seconds that all planned steps will still take; None without a plan."""
        if not self._plan:
            return None
        later = self._plan if self._index is None else self._plan[self._index + 1 :]
        rest = 0.0 if self._index is None else self._left_of_step(self._plan[self._index])
        return rest + math.fsum(step.seconds * self._ratio(step) for step in later)

    def detail(self) -> str:
        """How far the current step is: "1,024 of 4,096 tokens"; its stage where it has no count."""
        event = self.current
        if event.total:
            return f"{event.done:,.0f} of {event.total:,.0f} {clean(event.unit)}".rstrip()
        return clean(event.stage) if event.step and event.step != event.stage else ""

    def outlook(self) -> str:
        """Done and left of everything: "40 s gone, about 3 min 20 s left"."""
        left = self.left()
        if left is None:
            return ""
        return f"{duration(self.gone())} gone, about {duration(left)} left"

    def _name(self, event: Event) -> str:
        if not event.stage:
            return ""
        where = self._place(event)
        if where is None:
            return clean(f"{event.variant}: {event.stage}")
        step = self._plan[where]
        variants = list(dict.fromkeys(planned.variant for planned in self._plan))
        number = variants.index(step.variant) + 1
        return f"variant {number} of {len(variants)}, {clean(step.variant)}: {clean(step.step)}"

    def _place(self, event: Event) -> int | None:
        """The planned step that an event belongs to; a stage of its own stays in its variant's."""
        wanted = event.step or event.stage
        for index, step in enumerate(self._plan):
            if (step.variant, step.step) == (event.variant, wanted):
                return index
        same = self._index is not None and self._plan[self._index].variant == event.variant
        return self._index if same else None

    def _finish(self) -> None:
        if self._index is not None:
            self._finished.append(_Finished(self._plan[self._index], self.elapsed()))

    def _left_of_step(self, step: Planned) -> float:
        expected = max(0.0, step.seconds * self._ratio(step) - self.elapsed())
        done = self._share()
        if not done:
            return expected
        seen = self.elapsed() * (1 - done) / done
        weight = min(1.0, done / _SEEN)
        return weight * seen + (1 - weight) * expected

    def _share(self) -> float:
        return min(1.0, self.current.done / self.current.total) if self.current.total else 0.0

    def _ratio(self, step: Planned) -> float:
        """Real over expected seconds of finished steps of this name, else of all of them."""
        same = [one for one in self._finished if one.step.step == step.step]
        if same:
            return _ratio_of(same)
        return min(_FROM_OTHERS, max(1 / _FROM_OTHERS, _ratio_of(self._finished)))


def _ratio_of(finished: Sequence[_Finished]) -> float:
    expected = math.fsum(one.step.seconds for one in finished)
    return math.fsum(one.seconds for one in finished) / expected if expected > 0 else 1.0
