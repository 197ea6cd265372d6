"""The passes of a damage map: batch by batch, each piece exchanged and run from its layer on.

A batch is read once whole, which keeps what every layer gave. Then each piece is exchanged, and the
model runs from the first layer that it touches. Divergences are from the baseline's own
distributions, whose logits are made once a batch. Values are stored piece by piece as they come.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from evalkit.errors import is_out_of_memory
from evalkit.models.kv_cache import full_kv_cache, quantized_kv_cache
from evalkit.models.layers import decoder_layers
from evalkit.models.plain_weights import exchanged
from evalkit.records.sensitivity import Direction
from evalkit.running.process import stop_if_asked
from evalkit.running.sensitivity.pieces import Differences, Exchange
from evalkit.running.sensitivity.values import Columns
from evalkit.scoring.batching import Indexes, plan_batches, short_rope_length
from evalkit.scoring.engine import score_windows
from evalkit.scoring.halving import halves, release_memory
from evalkit.scoring.head import Forward, OutputHead, plain_head
from evalkit.scoring.reference import Reference, ReferenceWriter
from evalkit.scoring.row_file import KeptRows
from evalkit.scoring.suffix import Boundaries, PartialForward, hidden_states
from evalkit.texts.windows import Windows

# Tokens on which it is tried where passes can begin.
_TRIED_TOKENS = 16
STATISTICS = ("kl", "nll")


class Passes:
    """Passes over `windows` of the baseline's model with something of the variant in it.

    Pieces are exchanged in the baseline, or with `direction` "restore" in the model that has the
    variant's weights throughout; `everything` are all pieces.
    """

    def __init__(
        self,
        found: Differences,
        windows: Windows,
        everything: Exchange,
        direction: Direction,
        batch_tokens: int,
    ) -> None:
        self.found, self.model, self.windows = found, found.model, windows
        self.everything, self.restores = everything, direction == "restore"
        self._whole_batch = batch_tokens
        # Half of the reference's batch: another order of sums, which gives the noise floor.
        self.batch_tokens = max(1, batch_tokens // 2)
        self._own = found.own(everything.parameters)
        sample = windows.window(0)[:-1][:_TRIED_TOKENS].astype(np.int64)
        with full_kv_cache(self.model):
            self.record = ReferenceWriter.in_memory(self.model, windows)
            self.boundaries = Boundaries(self.record.forward, decoder_layers(self.model))
            self.boundaries.try_starts(torch.from_numpy(sample)[None].to(self.model.device))
        self._head = _baseline_head(self.record.forward)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth saying of how passes are made."""
        starts = self.boundaries.starts
        late = [layer for layer, start in enumerate(starts) if start < layer]
        notes = [self.record.forward.note] if self.record.forward.note else []
        if not self.boundaries.layers:
            notes.append("its layers are not known: every swap runs the whole model")
        elif late:
            notes.append(
                f"layers {late[0]} to {late[-1]} read more than the states before them: their swaps"
                f" run from layer {starts[late[0]]} on"
            )
        return tuple(notes)

    def batches(self, chosen: frozenset[int], seed: int) -> list[Indexes]:
        """The windows `chosen` in batches, in random order fixed by `seed`."""
        plan = plan_batches(
            self.windows.lengths - 1,
            self.batch_tokens,
            done=self._without(chosen),
            boundary=short_rope_length(self.model.config),
        )
        return [plan[index] for index in np.random.default_rng(seed).permutation(len(plan))]

    def read_baseline(self, chosen: frozenset[int]) -> None:
        """Keep the baseline's final rows of the windows `chosen`."""
        with full_kv_cache(self.model):
            for _ in score_windows(
                self.model, self.windows, batch_tokens=self._whole_batch, statistics=("nll",),
                record=self.record, done=self._without(chosen),
            ):  # fmt: skip
                stop_if_asked()

    def context(self) -> contextlib.AbstractContextManager[None]:
        """While the block runs, the model is the one that pieces are exchanged in."""
        return self._exchanged(self.everything) if self.restores else full_kv_cache(self.model)

    def of_batch(self, batch: Indexes) -> Iterator[OneBatch]:
        """`batch` read whole in the context; in halves where it does not fit in memory."""
        try:
            yield OneBatch(self, batch)
            return
        except Exception as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
        release_memory(self.model.device.type)
        for half in halves(batch):
            yield from self.of_batch(half)

    def can_control(self, piece: Exchange) -> bool:
        """Whether noise can stand for the error of `piece`: a pass must begin behind its layer."""
        if piece.layer is None:
            return False
        return self.boundaries.starts[piece.layer + 1] == piece.layer + 1

    def swapped(self, piece: Exchange) -> contextlib.AbstractContextManager[None]:
        """While the block runs, `piece` is that of the other model."""
        return self._restored(piece) if self.restores else self._exchanged(piece)

    def score(self, batch: Indexes, forward: Forward, logits: KeptRows) -> Columns:
        """Columns window, position, kl and nll of the scored tokens of `batch`."""
        vocabulary = self.record.layout.vocabulary
        layout = dataclasses.replace(self.record.layout, kind="logits", width=vocabulary)
        scored = score_windows(
            self.model, self.windows, batch_tokens=self.batch_tokens, statistics=STATISTICS,
            reference=Reference(forward, layout, logits, None), halve=False,
            done=self._without(map(int, batch)),
        )  # fmt: skip
        columns: Columns = next(scored).columns
        stop_if_asked()
        return columns

    @torch.inference_mode()
    def reference_logits(self, batch: Indexes) -> KeptRows:
        """The baseline's logits of the scored tokens of `batch`."""
        rows, forward = self.record.rows.read(batch), self.record.forward
        made = []
        for start in range(0, len(rows), forward.rows_at_once):
            part = rows[start : start + forward.rows_at_once]
            made.append(self._head(part.to(self.model.device)).cpu())
        kept = KeptRows(self.windows)
        kept.write(batch, torch.cat(made))
        return kept

    @contextlib.contextmanager
    def _exchanged(self, piece: Exchange) -> Iterator[None]:
        """The variant's weights of `piece`, and its cache where that is one."""
        cache = quantized_kv_cache if piece.cache else contextlib.nullcontext
        with exchanged(self.model, self.found.theirs(piece.parameters)), cache(self.model):
            yield

    @contextlib.contextmanager
    def _restored(self, piece: Exchange) -> Iterator[None]:
        cache = full_kv_cache if piece.cache else contextlib.nullcontext
        own = {name: self._own[name] for name in piece.parameters}
        with exchanged(self.model, own), cache(self.model):
            yield

    def _without(self, chosen: Iterable[int]) -> frozenset[int]:
        """The windows that are not `chosen`."""
        return frozenset(range(len(self.windows))) - frozenset(chosen)


class OneBatch:
    """Passes over one batch; `context` are the columns of that in which nothing is exchanged.

    `seconds` is how long that one took, with the baseline's logits.
    """

    def __init__(self, passes: Passes, batch: Indexes) -> None:
        begun = time.monotonic()
        self.passes, self.batch = passes, batch
        self._boundaries = passes.boundaries
        self._logits = passes.reference_logits(batch)
        self.context = self._score(self._boundaries.recording())
        self.seconds = time.monotonic() - begun

    def swapped(self, piece: Exchange) -> Columns:
        """The columns of a pass with `piece` exchanged."""
        with self.passes.swapped(piece):
            return self._score(self._forward(piece))

    def controlled(self, piece: Exchange, seed: int) -> Columns:
        """The columns of a pass with noise behind the layer of `piece` in place of its error.

        The noise is Gaussian, for each token of the size of what the exchange changes there; see
        `Passes.can_control`.
        """
        assert piece.layer is not None
        layer = piece.layer
        generator = torch.Generator().manual_seed(seed + int(self.batch[0]))
        kept = hidden_states(self._boundaries.outputs[layer])
        error = self._changed(piece, layer).float() - kept.float()
        noise = torch.randn(error.shape, generator=generator)
        noise *= error.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
        with self._boundaries.moved(layer, lambda hidden: (hidden + noise).to(hidden.dtype)):
            return self._score(self._boundaries.from_layer(layer + 1))

    @torch.inference_mode()
    def _changed(self, piece: Exchange, layer: int) -> Tensor:
        """The hidden states behind `layer` with `piece` exchanged, on the host."""
        with self.passes.swapped(piece):
            return self._boundaries.behind(layer)

    def _forward(self, piece: Exchange) -> PartialForward:
        if piece.head_alone and self.passes.record.forward.head is not None:
            return self._boundaries.head_alone()
        return self._boundaries.from_layer(0 if piece.cache else piece.first)

    def _score(self, forward: Forward) -> Columns:
        return self.passes.score(self.batch, forward, self._logits)


def _baseline_head(forward: Forward) -> Callable[[Tensor], Tensor]:
    """The baseline's way from rows to logits, whatever the model's head is exchanged for."""
    if forward.head is None:
        return lambda rows: rows
    return OutputHead(forward.model, forward.body, forward.head.output, plain_head(forward.model))
