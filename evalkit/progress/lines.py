"""Progress in a pipe or a log: a line where a step begins and ends, and at least every 30 s."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from evalkit.plain_text import clean, duration
from evalkit.progress.events import Event
from evalkit.progress.forecast import Forecast

EVERY_SECONDS = 30.0
# What is over within this time and was not planned needs no line.
_SOON = 1.0


class Lines:
    """Says lines by `say`; `tick` is to be called about once a second, from any thread."""

    def __init__(
        self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say_line, self._clock = say, clock
        self._forecast = Forecast(clock)
        self._told = False
        self._last = clock()
        self._lock = threading.RLock()

    def __call__(self, event: Event) -> None:
        """Hear an event, and say what is to be said of it."""
        with self._lock:
            self._hear(event)

    def _hear(self, event: Event) -> None:
        before, taken = self._forecast.name, self._forecast.elapsed()
        changed = self._forecast.hear(event)
        if changed and self._told:
            self._say(_with(f"{before}: done in {duration(taken)}", self._forecast.outlook()))
        if event.message:
            self._say(clean(f"{event.variant}: {event.message}".removeprefix(": ")))
        if changed:
            self._told = self._forecast.planned
            if self._told:
                self._say(f"{self._forecast.name} …")

    def tick(self) -> None:
        """Say that a stage which was not planned goes on, and how far it is where it takes long."""
        with self._lock:
            if self._forecast.name:
                self._go_on()

    def _go_on(self) -> None:
        if not self._told:
            if self._forecast.elapsed() >= _SOON:
                self._told = True
                self._say(f"{self._forecast.name} …")
        elif self._clock() - self._last >= EVERY_SECONDS:
            far = self._forecast.detail() or f"for {duration(self._forecast.elapsed())}"
            self._say(_with(f"{self._forecast.name}: {far}", self._forecast.outlook()))

    def close(self) -> None:
        """Say the end of the last step."""
        if self._told:
            self._told = False
            self._say(f"{self._forecast.name}: done in {duration(self._forecast.elapsed())}")

    def _say(self, line: str) -> None:
        self._last = self._clock()
        self._say_line(line)


def _with(line: str, outlook: str) -> str:
    return f"{line}; {outlook}" if outlook else line
