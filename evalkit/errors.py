"""Errors a user can cause or meet. Each is one line: the value, what is allowed, the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from evalkit.plain_text import clean


class EvalkitError(Exception):
    """Something ended this piece of work; the message is one line fit for a terminal."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(clean(message))


class UsageError(EvalkitError):
    """The words of a command or call are wrong; nothing was started."""

    exit_code = 2


class VariantError(EvalkitError):
    """One variant cannot be made, loaded or run; the others are unharmed."""


class OutOfMemoryError(VariantError):
    """The variant does not fit: not with the smallest batch, or not with the one that was asked."""


class NotFiniteError(VariantError):
    """The model gives logits or probabilities that are not numbers, of the request `index`."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.index = index


class ModelError(EvalkitError):
    """A model's checkpoint cannot be found, read or trusted."""

    exit_code = 2


class DataError(EvalkitError):
    """A text, task or calibration file cannot be used."""

    exit_code = 2


class StoreError(EvalkitError):
    """The run store cannot be read or written."""


class InterruptedWorkError(EvalkitError):
    """The user asked to stop; everything measured so far is stored."""

    exit_code = 130


class NotComparableError(EvalkitError):
    """Two runs differ in a field that makes their difference meaningless."""


# What drivers, libraries and allocators say, in small letters without underscores: CUDA and HIP;
# cuBLAS, cuDNN, cuSOLVER; a handle of theirs that finds no memory; bitsandbytes, which tells no
# more of its matrix product; torch and the C library on a CPU.
_FULL = (
    "out of memory",
    "outofmemory",
    "errormemoryallocation",
    "status alloc failed",
    "status not initialized when calling `cublascreate",
    "status not initialized when calling `cudnncreate",
    "cublaslt ran into an error",
    "cublas api failed with status 3",
    "not enough memory",
    "cannot allocate memory",
    "can't allocate memory",
    "bad alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or what it was raised from, says that memory ran out on device or host."""
    # torch's own class has the name of the one here, and is not imported for it.
    if isinstance(error, MemoryError) or type(error).__name__ == OutOfMemoryError.__name__:
        return True
    words = str(error).lower().replace("_", " ")
    if any(full in words for full in _FULL):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def in_one_line(error: BaseException) -> EvalkitError:
    """`error` as one that a row can say: evalkit's own as it is, any other with its first line."""
    if isinstance(error, EvalkitError):
        return error
    first = (str(error).strip().splitlines() or [""])[0]
    if is_out_of_memory(error):
        return OutOfMemoryError(f"out of memory: {first or 'this machine is full'}")
    return VariantError(f"{type(error).__name__}: {first} (--debug shows where)")


def did_you_mean(value: str, allowed: Iterable[str]) -> str:
    """Return '; did you mean X?' for the closest allowed word, or an empty string."""
    close = difflib.get_close_matches(value, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, value: str, allowed: Iterable[str]) -> UsageError:
    """The error for a word that is not one of a known list."""
    words = sorted(allowed)
    listing = ", ".join(words) if words else "none are installed"
    hint = did_you_mean(value, words)
    return UsageError(f"unknown {kind} {value!r}: allowed are {listing}{hint}")
