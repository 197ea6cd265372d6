"""Batch by batch through the pieces: all on the first ones, then those whose rank is open."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from evalkit.analysis.sensitivity import open_ranks
from evalkit.progress import Event, Listener
from evalkit.running.sensitivity.passes import OneBatch, Passes
from evalkit.running.sensitivity.pieces import BASELINE, WHOLE, Exchange, everything
from evalkit.running.sensitivity.result import Found
from evalkit.running.sensitivity.values import Columns
from evalkit.scoring.batching import Indexes

Share = tuple[int, int]
# Before a piece may be left with less text than others: so many batches, of so many tokens in all.
_FIRST_BATCHES, _FIRST_TOKENS = 2, 1024


class Measuring:
    """Measures what the store lacks; `notes` are lines for the result.

    `started` is when the time of `--seconds` began, by time.monotonic. A `share` (number, of how
    many) has every nth piece, on all batches; the first also measures what all have in common.
    """

    def __init__(
        self,
        found: Found,
        passes: Passes,
        started: float,
        send: Listener,
        share: Share | None = None,
    ) -> None:
        self.found, self.passes, self.started, self.send = found, passes, started, send
        self.share = share
        self.options = found.work.options
        self.notes: tuple[str, ...] = ()
        self.complete = True
        # What nothing is exchanged in, and what everything is then.
        self._context, opposite = (WHOLE, BASELINE) if passes.restores else (BASELINE, WHOLE)
        self._opposite = everything([passes.everything], opposite)
        self._whole_seconds: list[float] = []
        self._swap_seconds: list[float] = []

    def run(self) -> None:
        """All batches, until the pieces have their ranks or the time is up."""
        if not self._left(self._pieces, self.found.chosen):
            return
        self.send(Event(self.found.work.baseline.variant.label, "reading the text"))
        self.passes.read_baseline(self.found.chosen)
        batches = self.passes.batches(self.found.chosen, self.options["seed"])
        with self.passes.context():
            for index, batch in enumerate(batches):
                wanted = self._wanted(batches[:index])
                if not self._measure(batch, wanted, index, len(batches)):
                    self.complete = False
                    break
        if self._swap_seconds:
            mean, whole = (sum(one) / len(one) for one in (self._swap_seconds, self._whole_seconds))
            self.notes += (
                f"{len(self._swap_seconds)} swaps took {mean / whole:.2f} of a whole pass each",
            )

    @property
    def _pieces(self) -> list[Exchange]:
        """All that is exchanged here: the pieces, and everything at once."""
        if self.share is None:
            return [self._opposite, *self.found.pieces]
        number, count = self.share
        mine = self.found.pieces[number::count]
        return [*([] if number else [self._opposite]), *mine]

    def _left(self, pieces: Sequence[Exchange], windows: Collection[int]) -> list[Exchange]:
        """The pieces that lack a value of the `windows`."""
        return [one for one in pieces if self._lacking(one, windows)]

    def _lacking(self, piece: Exchange, windows: Collection[int]) -> list[str]:
        """The keys of values that are lacking: of the swap itself, and of its control."""
        wanted = [piece.key]
        if self.options["control"] and self.passes.can_control(piece):
            wanted.append(piece.control_key(self.options["seed"]))
        return [key for key in wanted if not self.found.values.done(key).issuperset(windows)]

    def _wanted(self, before: Sequence[Indexes]) -> list[Exchange]:
        """What is measured of the next batch, after those `before`: pieces whose rank is open."""
        windows = {int(window) for batch in before for window in batch}
        tokens = int(self.passes.windows.scored[sorted(windows)].sum())
        first = len(before) < _FIRST_BATCHES or tokens < _FIRST_TOKENS
        if first or self.share is not None:
            return self._pieces
        known = [piece for piece in self.found.pieces if windows <= self.found.done(piece)]
        damage = {piece.name: self.found.damage(piece, windows) for piece in known}
        ranked = open_ranks(self.found.values.table(WHOLE, windows), damage)
        return [self._opposite, *(piece for piece in known if piece.name in ranked)]

    def _measure(self, batch: Indexes, wanted: Sequence[Exchange], at: int, count: int) -> bool:
        """Measure `wanted` on batch `at` of `count`; False where no time was left for all of it."""
        if not self._left(wanted, set(map(int, batch))):
            return True
        for one in self.passes.of_batch(batch):
            windows = set(map(int, one.batch))
            if not self.share or not self.share[0]:
                self._keep(self._context, windows, one.context)
            self._whole_seconds.append(one.seconds)
            left = self._left(wanted, windows)
            for index, piece in enumerate(left):
                self._tell(at + index / len(left), count)
                if self._late:
                    return False
                self._swap(one, piece, windows)
        return True

    def _swap(self, one: OneBatch, piece: Exchange, windows: Collection[int]) -> None:
        lacking, begun = self._lacking(piece, windows), time.monotonic()
        if piece.key in lacking:
            self._keep(piece.key, windows, one.swapped(piece))
            if piece is not self._opposite:
                self._swap_seconds.append(time.monotonic() - begun)
        seed = self.options["seed"]
        if piece.control_key(seed) in lacking:
            self._keep(piece.control_key(seed), windows, one.controlled(piece, seed))

    def _keep(self, key: str, windows: Collection[int], columns: Columns) -> None:
        if not self.found.values.done(key).issuperset(windows):
            self.found.values.add(key, columns)

    @property
    def _late(self) -> bool:
        seconds = float(self.options["seconds"])
        return seconds > 0 and time.monotonic() - self.started > seconds

    def _tell(self, batches: float, count: int) -> None:
        """Say how many swaps were made, in so many of `count` batches."""
        label, pieces = self.found.work.variant.variant.label, len(self._pieces)
        done, total = round(batches * pieces), count * pieces
        self.send(Event(label, "exchanging pieces", done, total, "swaps"))
