"""Which windows run together: a plan that depends on the windows and the budget only."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalkit.scoring.device_memory import to_device
from evalkit.texts.windows import Windows

Indexes = NDArray[np.int64]

# A window joins a batch when its length is at least this part of the longest one's: below that,
# computing its padding costs more than the larger batch gains.
_SHORTEST_WINDOW = 0.75


def plan_batches(
    lengths: NDArray[np.int64],
    batch_tokens: int,
    *,
    done: Collection[int] = (),
    boundary: int | None = None,
) -> list[Indexes]:
    """Batches of window indexes, longest windows first, so that memory runs out early or never.

    Args:
        lengths: int64[n], tokens of each window that the model reads.
        batch_tokens: rows times longest row of a batch, padding included; a longer window is a
            batch of its own.
        done: windows to leave out. Batches none of whose windows are done stay as they would be
            without it; what is left of the others is planned anew.
        boundary: a length at which the model changes (see `short_rope_length`); no batch has
            windows on both sides of it.
    """
    everything = _filled(np.argsort(-lengths, kind="stable"), lengths, batch_tokens, boundary)
    if not done:
        return everything
    left = np.ones(len(lengths), dtype=bool)
    left[list(done)] = False
    whole = [batch for batch in everything if left[batch].all()]
    rest = [batch[left[batch]] for batch in everything if not left[batch].all()]
    again = _filled(np.concatenate(rest), lengths, batch_tokens, boundary) if rest else []
    return whole + again


def _filled(
    order: Indexes, lengths: NDArray[np.int64], batch_tokens: int, boundary: int | None
) -> list[Indexes]:
    """Cut `order` (indexes by falling length) into batches."""
    batches = []
    start = 0
    ascending = lengths[order][::-1]
    while start < len(order):
        longest = int(lengths[order[start]])
        shortest = int(np.ceil(_SHORTEST_WINDOW * longest))
        if boundary is not None and longest > boundary:
            shortest = max(shortest, boundary + 1)
        fitting = len(order) - int(np.searchsorted(ascending, shortest))
        end = min(start + max(1, batch_tokens // longest), fitting)
        batches.append(order[start:end])
        start = end
    return batches


def padded_inputs(
    windows: Windows, batch: Indexes, device: torch.device, *, masked: bool
) -> tuple[Tensor, Tensor | None]:
    """What the model reads of the windows of `batch`: all tokens but the last of each.

    Rows are padded on the right with their own last token.

    Returns:
        input_ids int64 (rows, longest), and with `masked`, where rows differ in length, the
        attention mask int64 of the same shape (1 for tokens), else None.
    """
    rows = [windows.window(int(index))[:-1] for index in batch]
    lengths = np.array([len(row) for row in rows])
    ids = np.empty((len(rows), int(lengths.max())), dtype=np.int64)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
        target[len(row) :] = row[-1]
    input_ids = to_device(torch.from_numpy(ids), device)
    if not masked or lengths.min() == lengths.max():
        return input_ids, None
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    return input_ids, to_device(torch.from_numpy(mask.astype(np.int64)), device)


def short_rope_length(config: Any) -> int | None:
    """Length up to which a longrope model uses its short factors; None for other models.

    One longer row in a batch switches all of its rows to the long factors.
    """
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    kinds = parameters if isinstance(parameters, dict) else {}
    if kinds.get("rope_type", kinds.get("type")) not in ("longrope", "su"):
        return None
    length = kinds.get("original_max_position_embeddings")
    return int(length or config.original_max_position_embeddings)
