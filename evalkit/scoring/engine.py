"""Token scoring: one forward pass a batch gives every per-token statistic that was asked for.

The model reads a batch of windows; the hidden states of the scored tokens are gathered, stored if
a reference is recorded, and taken through the output head in chunks. Logits of a whole batch never
exist, and nothing is kept from batch to batch, so memory depends on the budget, not on the text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from evalkit.errors import UsageError, VariantError
from evalkit.models.overflow import first_not_finite, not_finite_words
from evalkit.scoring.batching import Indexes, padded_inputs, plan_batches, short_rope_length
from evalkit.scoring.device_memory import to_device
from evalkit.scoring.halving import halves, run_or_halve
from evalkit.scoring.head import Forward, open_forward
from evalkit.scoring.reference import Reference, ReferenceWriter, window_sample
from evalkit.scoring.token_statistics import TokenStatistics
from evalkit.texts.windows import Windows


@dataclass(frozen=True)
class ScoredBatch:
    """Values of the scored tokens of some windows.

    `windows` int64 holds their indexes; `columns` are equally long, one row a scored token, window
    after window: `window` and `position` (of the token in its window) int32, and one float32
    column a statistic. `notes` are lines for the run's record.
    """

    windows: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]
    notes: tuple[str, ...] = field(default=())


def score_windows(
    model: PreTrainedModel,
    windows: Windows,
    *,
    batch_tokens: int,
    statistics: Collection[str],
    reference: Reference | None = None,
    record: ReferenceWriter | None = None,
    done: Collection[int] = (),
    halve: bool = True,
    on_batch_halved: Callable[[int], None] | None = None,
) -> Iterator[ScoredBatch]:
    """Score all windows but those of `done`, batch by batch, the longest first.

    Args:
        model: any causal language model in evaluation mode.
        windows: none longer than the model's context.
        batch_tokens: budget of a batch, see `plan_batches`; the plan is the same for all variants.
        statistics: names of files in `evalkit.scoring.statistics` or of other packages.
        reference: the baseline's stored rows, opened for this model, where a statistic needs them.
        record: stores this model's rows; when a batch is yielded, its rows are on the disk.
        done: windows that were scored before.
        halve: whether a batch that does not fit in memory may be halved; without it the values of
            every window come from the planned batches or not at all.
        on_batch_halved: told the new budget in tokens each time a batch did not fit in memory.

    Raises:
        UsageError: a statistic is unknown, or needs a reference and there is none.
        OutOfMemoryError: a single window does not fit, or a batch that may not be halved.
        VariantError: logits are not numbers, or the vocabulary is not the baseline's.
        StoreError: the reference cannot be read or written.
    """
    opened = record or reference
    forward = (
        opened.forward if opened else open_forward(model, window_sample(windows, model.device))
    )
    scorer = _Scorer(forward, windows, frozenset(statistics), reference, record, halve)
    plan = plan_batches(
        windows.lengths - 1,
        batch_tokens,
        done=done,
        boundary=short_rope_length(model.config),
    )
    notes: tuple[str, ...] = (forward.note,) if forward.note else ()
    waiting, limit = plan[::-1], batch_tokens
    while waiting:
        batch = waiting.pop()
        if len(batch) > 1 and scorer.tokens(batch) > limit:
            waiting.extend(halves(batch))
            continue
        scored = scorer.try_batch(batch)
        if scored is None:
            limit = scorer.tokens(batch) // 2
            waiting.extend(halves(batch))
            notes += (f"out of memory: the batch was halved to {limit} tokens",)
            if on_batch_halved is not None:
                on_batch_halved(limit)
            continue
        yield ScoredBatch(batch, scored, notes)
        notes = ()


def _check(statistics: TokenStatistics, reference: Reference | None, forward: Forward) -> None:
    missing = [name for name, one in statistics.statistics.items() if one.needs_reference]
    if missing and reference is None:
        raise UsageError(f"statistics {', '.join(missing)} need the baseline's reference")
    if reference is not None and reference.layout.vocabulary != forward.vocabulary:
        raise VariantError(
            f"the model has {forward.vocabulary} logits a token, the baseline "
            f"{reference.layout.vocabulary}: compare variants of one model"
        )


class _Scorer:
    """Scores one batch at a time."""

    def __init__(
        self,
        forward: Forward,
        windows: Windows,
        names: frozenset[str],
        reference: Reference | None,
        record: ReferenceWriter | None,
        halve: bool,
    ) -> None:
        self.forward = forward
        self.windows = windows
        self.names = names
        self.record = record
        self.halve = halve
        self.device = forward.model.device
        # The likelihood of the text shows whether logits are numbers.
        self.statistics = TokenStatistics(names | {"nll"}, forward.vocabulary, self.device)
        _check(self.statistics, reference, forward)
        self.reference = reference if self.statistics.needs_reference else None

    def tokens(self, batch: Indexes) -> int:
        """Size of a batch, padding included."""
        return len(batch) * int(self.windows.lengths[batch].max() - 1)

    def try_batch(self, batch: Indexes) -> dict[str, NDArray[Any]] | None:
        """Columns of `batch`; None when it did not fit in memory and can be halved."""
        longest = f"window of {int(self.windows.lengths[batch].max() - 1)} tokens"
        return run_or_halve(
            lambda: self._score(batch), len(batch), longest, self.device, halve=self.halve
        )

    @torch.inference_mode()
    def _score(self, batch: Indexes) -> dict[str, NDArray[Any]]:
        ids, mask = padded_inputs(self.windows, batch, self.device, masked=self.forward.masked)
        window, position = self._scored_tokens(batch)
        rows = self._scored_rows(batch, position, self.forward.rows(ids, mask))
        if self.record is not None:
            self.record.write(batch, rows)
        true = self.windows.tokens[self.windows.offsets[window] + position]
        targets = to_device(torch.from_numpy(true.astype(np.int64)), self.device)
        columns = self._columns(batch, rows, targets)
        self._refuse_nan(columns["nll"], window, ids)
        if self.record is not None:
            self.record.flush()
        return {
            "window": window.astype(np.int32),
            "position": position.astype(np.int32),
            **{name: columns[name] for name in sorted(self.names)},
        }

    def _scored_rows(self, batch: Indexes, position: Indexes, rows: Tensor) -> Tensor:
        """Of `rows` (windows, length, width) those of scored tokens: (tokens, width)."""
        if len(batch) == 1:
            # A view: of a window of 128k tokens a copy would be a gigabyte.
            return rows[0, position[0] - 1 : position[-1]]
        row = np.repeat(np.arange(len(batch)), self.windows.scored[batch])
        places = torch.from_numpy(row * rows.shape[1] + position - 1)
        return rows.flatten(0, 1)[to_device(places, self.device)]

    def _scored_tokens(self, batch: Indexes) -> tuple[Indexes, Indexes]:
        """Window, and position in the window, of each scored token."""
        counts = self.windows.scored[batch]
        ends = np.cumsum(counts)
        within = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        start = np.repeat(self.windows.score_from[batch].astype(np.int64), counts)
        return np.repeat(batch, counts), start + within

    def _columns(self, batch: Indexes, rows: Tensor, targets: Tensor) -> dict[str, NDArray[Any]]:
        """The statistics of scored tokens with `rows` (tokens, width), chunk by chunk.

        A GPU is given all of it at once and waited for when the values are read, together.
        """
        stored = self.reference.rows(batch) if self.reference is not None else None
        chunks, names = [], list(self.statistics.statistics)
        at_once = self.forward.rows_at_once
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            theirs = None
            if self.reference is not None and stored is not None:
                theirs = self.reference.logits(to_device(stored[part], self.device))
            found = self.statistics(self.forward.logits(rows[part]), targets[part], theirs)
            chunks.append(torch.stack([found[name] for name in names]))
        return dict(zip(names, torch.cat(chunks, 1).cpu().numpy(), strict=True))

    def _refuse_nan(self, nll: NDArray[Any], window: Indexes, ids: Tensor) -> None:
        wrong = np.isnan(nll)
        if wrong.any():
            index = window[wrong][0]
            row = ids[list(dict.fromkeys(window)).index(index), : self.windows.lengths[index] - 1]
            raise VariantError(
                f"the logits of window {index} are not numbers (NaN): "
                f"{not_finite_words(first_not_finite(self.forward.model, row[None]))}"
            )
