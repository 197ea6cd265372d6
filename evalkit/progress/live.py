"""Showing progress where the user looks: bars on a terminal or in a notebook, else plain lines."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from evalkit.plain_text import clean
from evalkit.progress.events import Event, Listener
from evalkit.progress.forecast import Forecast
from evalkit.progress.lines import Lines
from evalkit.progress.notebook import NotebookBar

TICK_SECONDS = 1.0


@contextmanager
def listening(progress: Listener | None) -> Iterator[Listener]:
    """The caller's own listener, or a live display where there is none."""
    if progress is not None:
        yield progress
        return
    with live() as listener:
        yield listener


@contextmanager
def live(show: bool | None = None) -> Iterator[Listener]:
    """Show what happens on stderr, or in the notebook cell.

    With `show` None a terminal and a notebook show bars, and a pipe or a log gets plain lines;
    True shows bars anywhere, False messages alone.
    """
    if show is None and _in_notebook():
        bar = NotebookBar()
        with _ticking(bar.tick):
            try:
                yield bar
            finally:
                bar.close()
    elif show or (show is None and sys.stderr.isatty()):
        with _bars() as listener:
            yield listener
    elif show is False:
        yield _messages
    else:
        lines = Lines(_say)
        with _ticking(lines.tick):
            yield lines
        lines.close()
    sys.stderr.flush()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _messages(event: Event) -> None:
    if event.message:
        _say(clean(f"{event.variant}: {event.message}".removeprefix(": ")))


@contextmanager
def _ticking(tick: Callable[[], None]) -> Iterator[None]:
    """Call `tick` about every second from a thread while the block runs."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(TICK_SECONDS):
            tick()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _bars() -> Iterator[Listener]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[far]}"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        forecast = Forecast()
        step = bars.add_task("", total=None, far="", visible=False)
        whole = bars.add_task("everything", total=None, far="", visible=False)

        def listen(event: Event) -> None:
            if event.message:
                text = f"{event.variant}: {event.message}".removeprefix(": ")
                console.print(escape(clean(text)), highlight=False)
            if forecast.hear(event):
                bars.reset(step, total=None)
            if event.stage:
                _show_step(bars, step, forecast, escape)

        def tick() -> None:
            left = forecast.left()
            if left is not None:
                gone = forecast.gone()
                far = forecast.outlook()
                bars.update(whole, completed=gone, total=gone + left, far=far, visible=True)

        with _ticking(tick):
            yield listen


def _show_step(bars: Any, step: Any, forecast: Forecast, escape: Callable[[str], str]) -> None:
    event = forecast.current
    bars.update(
        step,
        description=escape(forecast.name),
        completed=event.done,
        total=event.total or None,
        far=escape(forecast.detail()),
        visible=True,
    )


def _in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook (and not in IPython's terminal)."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")
