"""Progress as a stream of events: the worker sends, the terminal or notebook shows.

A stage is one thing the user waits for ("int4: scoring"); `done` of `total` counts its units.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Something happened: a stage of a variant advanced, or a line is worth saying."""

    variant: str
    stage: str
    done: float = 0.0
    total: float = 0.0
    unit: str = ""
    message: str = ""


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener for callers that want no progress."""


@contextmanager
def live(show: bool | None = None) -> Iterator[Listener]:
    """Show progress bars with time left on stderr (or in the notebook cell).

    With `show` None bars appear on a terminal or in a notebook; messages always appear on stderr.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    visible = console.is_terminal or console.is_jupyter if show is None else show
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not visible) as bars:
        current: dict[tuple[str, str], TaskID] = {}

        def listen(event: Event) -> None:
            if event.message:
                console.print(escape(f"{event.variant}: {event.message}"), highlight=False)
                return
            key = (event.variant, event.stage)
            if key not in current:
                for task in current.values():
                    bars.update(task, visible=False)
                text = escape(f"{event.variant} · {event.stage}")
                current[key] = bars.add_task(text, total=event.total or None, unit=event.unit)
            bars.update(current[key], completed=event.done, total=event.total or None)

        yield listen
    sys.stderr.flush()
