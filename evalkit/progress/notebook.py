"""Progress in a notebook: one bar in the output of the cell, rewritten in place."""

from __future__ import annotations

import html
import time

from evalkit.progress.events import Event
from evalkit.progress.forecast import Forecast

NOTEBOOK_SECONDS = 0.3


class NotebookBar:
    """The bar of the current step; what remains in the end are the messages."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._handle = display(HTML(""), display_id=True)
        self._messages: list[str] = []
        self._forecast = Forecast()
        self._shown = 0.0

    def __call__(self, event: Event) -> None:
        """Hear an event; the bar is rewritten a few times a second at most."""
        if event.message:
            self._messages.append(f"{event.variant}: {event.message}".removeprefix(": "))
        changed = self._forecast.hear(event)
        if changed or time.monotonic() - self._shown >= NOTEBOOK_SECONDS:
            self.tick()

    def tick(self) -> None:
        """Rewrite the bar, whose times go on between events."""
        self._shown = time.monotonic()
        self._show(self._bar())

    def close(self) -> None:
        """Take the bar away; messages stay."""
        self._show("")

    def _bar(self) -> str:
        event = self._forecast.current
        words = [self._forecast.name, self._forecast.detail(), self._forecast.outlook()]
        text = html.escape("; ".join(filter(None, words)))
        if not event.total:
            return f"<progress></progress> {text}"
        return f'<progress max="{event.total:g}" value="{event.done:g}"></progress> {text}'

    def _show(self, bar: str) -> None:
        lines = [f"<small>{html.escape(line)}</small>" for line in self._messages]
        self._handle.update(self._html("<br>".join([*lines, bar] if bar else lines)))
