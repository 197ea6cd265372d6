"""Progress as a stream of events: the worker sends, the terminal, pipe or notebook shows."""

from evalkit.progress.events import Event, Listener, Planned, ignore
from evalkit.progress.live import listening, live

__all__ = ["Event", "Listener", "Planned", "ignore", "listening", "live"]
