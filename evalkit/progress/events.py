"""What is sent: a stage advanced, a line is worth saying, or the steps that are to come.

A stage is one thing the user waits for ("int4: scoring"); `done` of `total` counts its units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Planned:
    """A step that is still to come, and the seconds that it is expected to take."""

    variant: str
    step: str
    seconds: float


@dataclass(frozen=True)
class Event:
    """Something happened: a stage of a variant advanced, or a line is worth saying.

    `step` is the planned step that the stage belongs to, where it has not its name. `plan` are all
    steps in their order, sent once before the first.
    """

    variant: str
    stage: str
    done: float = 0.0
    total: float = 0.0
    unit: str = ""
    message: str = ""
    step: str = ""
    plan: tuple[Planned, ...] = ()


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener for callers that want no progress."""
