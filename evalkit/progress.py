"""Progress as a stream of events: the worker sends, the terminal or notebook shows.

A stage is one thing the user waits for ("int4: scoring"); `done` of `total` counts its units.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from evalkit.plain_text import clean


@dataclass(frozen=True)
class Event:
    """Something happened: a stage of a variant advanced, or a line is worth saying."""

    variant: str
    stage: str
    done: float = 0.0
    total: float = 0.0
    unit: str = ""
    message: str = ""


NOTEBOOK_SECONDS = 0.3
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener for callers that want no progress."""


@contextmanager
def listening(progress: Listener | None) -> Iterator[Listener]:
    """The caller's own listener, or a live bar where there is none."""
    if progress is not None:
        yield progress
        return
    with live() as listener:
        yield listener


@contextmanager
def live(show: bool | None = None) -> Iterator[Listener]:
    """Show progress bars with time left on stderr, or one bar in the notebook cell.

    With `show` None bars appear on a terminal or in a notebook; messages always appear on stderr.
    """
    if show is None and _in_notebook():
        bar = _NotebookBar()
        try:
            yield bar
        finally:
            bar.close()
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    visible = console.is_terminal if show is None else show
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not visible) as bars:
        current: dict[tuple[str, str], TaskID] = {}

        def listen(event: Event) -> None:
            if event.message:
                console.print(escape(clean(f"{event.variant}: {event.message}")), highlight=False)
                return
            key = (event.variant, event.stage)
            if key not in current:
                for task in current.values():
                    bars.update(task, visible=False)
                text = escape(clean(f"{event.variant} · {event.stage}"))
                current[key] = bars.add_task(text, total=None, count="")
            count = f"{event.done:,.0f}/{event.total:,.0f} {clean(event.unit)}"
            bars.update(
                current[key],
                completed=event.done,
                total=event.total or None,
                count=escape(count) if event.total else "",
            )

        yield listen
    sys.stderr.flush()


def _in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook (and not in IPython's terminal)."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class _NotebookBar:
    """One bar in the output of the cell, rewritten in place; what remains are the messages."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._handle = display(HTML(""), display_id=True)
        self._messages: list[str] = []
        self._stage, self._begun, self._shown = ("", ""), 0.0, 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event.message:
            self._messages.append(f"{event.variant}: {event.message}".removeprefix(": "))
        if (event.variant, event.stage) != self._stage and event.stage:
            self._stage, self._begun, self._shown = (event.variant, event.stage), now, 0.0
        if now - self._shown >= NOTEBOOK_SECONDS:
            self._shown = now
            self._show(self._bar(event, now))

    def close(self) -> None:
        """Take the bar away; messages stay."""
        self._show("")

    def _bar(self, event: Event, now: float) -> str:
        name = html.escape(" · ".join(word for word in self._stage if word))
        if not event.total:
            return f"<progress></progress> {name}"
        left = (now - self._begun) * (event.total - event.done) / event.done if event.done else 0
        return (
            f'<progress max="{event.total:g}" value="{event.done:g}"></progress> {name}:'
            f" {event.done:,.0f} of {event.total:,.0f} {html.escape(event.unit)}"
            + (f", {left:.0f} s left" if left else "")
        )

    def _show(self, bar: str) -> None:
        lines = [f"<small>{html.escape(line)}</small>" for line in self._messages]
        self._handle.update(self._html("<br>".join([*lines, bar] if bar else lines)))
