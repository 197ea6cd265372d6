"""The bar of a pass over texts, which moves within a batch too: one may take a minute on a CPU."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from evalkit.models.layers import every_layer
from evalkit.progress import Event, Listener
from evalkit.running.session import LoadedSession, Session

# The rest of a batch's time goes to the output head.
_BODY = 0.75
_OFTEN = 0.3


class TokenBar:
    """Counts scored tokens from `event` on; about `batch_tokens` are in a batch."""

    def __init__(self, event: Event, send: Listener, batch_tokens: int) -> None:
        self._event, self._send, self._batch = event, send, float(batch_tokens)
        self._moved = time.monotonic()
        send(event)

    def advance(self, tokens: float) -> None:
        """A batch of so many scored tokens is done."""
        self._batch = tokens
        self._event = dataclasses.replace(self._event, done=self._event.done + tokens)
        self._send(self._event)

    @contextlib.contextmanager
    def inside(self, session: Session) -> Iterator[None]:
        """While the block runs, move with each layer of a model on a CPU; a card needs no help."""
        if session.job.device != "cpu" or not isinstance(session, LoadedSession):
            yield
            return
        with every_layer(session.scoring_model, self._layer):
            yield

    def _layer(self, index: int, layers: int) -> None:
        if time.monotonic() - self._moved < _OFTEN:
            return
        self._moved = time.monotonic()
        event = self._event
        batch = min(self._batch, event.total - event.done)
        done = event.done + _BODY * batch * (index + 1) / layers
        self._send(dataclasses.replace(event, done=done))
