"""A batch that does not fit in memory is halved and tried again, or refused in words.

Halving changes which rows run together. Most numbers do not depend on that; those of LLM.int8(),
whose outlier columns are found over the whole batch, do, and then halving is forbidden.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from evalkit.errors import OutOfMemoryError, is_out_of_memory

Result = TypeVar("Result")
Batch = TypeVar("Batch", NDArray[np.int64], list[Any])


def run_or_halve(
    run: Callable[[], Result], rows: int, longest: str, device: torch.device, *, halve: bool
) -> Result | None:
    """What `run` returns; None where its batch did not fit in memory and is to be halved.

    Args:
        run: computes one batch.
        rows: rows of the batch.
        longest: one row of it in words, such as "window of 2048 tokens".
        device: where it runs; what the failed batch left there is freed.
        halve: whether a batch of several rows may be halved.

    Raises OutOfMemoryError where a single row does not fit, or more and `halve` forbids.
    """
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        refuse_or_halve(error, rows, longest, halve=halve)
    # Only here, outside the handler, are the tensors of the failed batch gone.
    release_memory(device)
    return None


def refuse_or_halve(error: Exception, rows: int, longest: str, *, halve: bool) -> None:
    """Return where `error` says that `rows` rows did not fit in memory and half of them may.

    Otherwise raises `error` itself, or OutOfMemoryError as `run_or_halve` does.
    """
    if not is_out_of_memory(error):
        raise error
    if rows <= 1:
        raise OutOfMemoryError(
            f"one {longest} does not fit in memory: lower the context length or take a "
            f"smaller variant ({_first_line(error)})"
        ) from error
    if not halve:
        raise OutOfMemoryError(
            f"a batch of {rows} rows, the longest a {longest}, does not fit in memory, and is "
            "not halved because the numbers of this variant depend on what runs together: "
            "measure all variants with a smaller --batch-tokens"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # torch goes on about all of the card's memory.
    return lines[0].partition(". ")[0]


def halves(batch: Batch) -> list[Batch]:
    """The second and the first half of `batch`, for a stack whose end is run next."""
    middle = (len(batch) + 1) // 2
    return [batch[middle:], batch[:middle]]


def release_memory(device: torch.device | str) -> None:
    """Free what nothing refers to any more, on a GPU the blocks that torch keeps too."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
