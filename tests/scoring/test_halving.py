"""Out of memory on a batch: halved and tried again, or refused in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evalkit.errors import OutOfMemoryError, is_out_of_memory
from evalkit.scoring.halving import halves, run_or_halve

CPU = torch.device("cpu")


def _full() -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.OutOfMemoryError(),
        OutOfMemoryError("one window of 9 tokens does not fit"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cublasLt ran into an error!\n\tshapeA=torch.Size([9, 9])"),
        RuntimeError("Triton Error [CUDA]: CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("cudaErrorMemoryAllocation"),
        RuntimeError("hipErrorOutOfMemory"),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_every_way_of_saying_that_memory_ran_out(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_an_error_that_was_made_of_one_of_these() -> None:
    try:
        try:
            _full()
        except RuntimeError as error:
            raise ValueError("the weights cannot be read") from error
    except ValueError as error:
        assert is_out_of_memory(error)


def test_other_errors_pass_through() -> None:
    def wrong() -> Any:
        raise RuntimeError("shapes do not match")

    for words in (
        "shapes do not match",
        "CUDNN_STATUS_NOT_SUPPORTED",
        "CUBLAS_STATUS_INVALID_VALUE",
    ):
        assert not is_out_of_memory(RuntimeError(words))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_or_halve(wrong, 4, "window of 9 tokens", CPU, halve=True)


def test_a_batch_of_several_rows_is_to_be_halved_unless_that_is_forbidden() -> None:
    assert run_or_halve(lambda: 7, 4, "window of 9 tokens", CPU, halve=False) == 7
    assert run_or_halve(_full, 4, "window of 9 tokens", CPU, halve=True) is None
    with pytest.raises(OutOfMemoryError, match="batch of 4 rows, the longest a window of 9 tokens"):
        run_or_halve(_full, 4, "window of 9 tokens", CPU, halve=False)
    for halve in (True, False):
        with pytest.raises(OutOfMemoryError, match="one window of 9 tokens does not fit"):
            run_or_halve(_full, 1, "window of 9 tokens", CPU, halve=halve)


def test_the_first_half_is_run_first() -> None:
    assert halves([1, 2, 3]) == [[3], [1, 2]]
    second, first = halves(np.arange(5))
    assert first.tolist() == [0, 1, 2] and second.tolist() == [3, 4]
