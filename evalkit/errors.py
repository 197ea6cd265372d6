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


# Of CUDA and its libraries (cuBLAS, cuDNN), and of torch's allocator on a CPU.
_FULL = ("out of memory", "not enough memory", "_status_alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory on the device or the host ran out."""
    # torch's own class has the name of the one here, and is not imported for it.
    if isinstance(error, MemoryError) or type(error).__name__ == OutOfMemoryError.__name__:
        return True
    words = str(error).lower()
    return any(full in words for full in _FULL)


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
