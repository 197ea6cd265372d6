"""A model that is evaluated by plain weights which are not how the variant is held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Unpacked:
    """What the plain weights of a loaded model were unpacked from, and what really runs that.

    `weight_bytes` are those of the file's tensors by category, `quantized` the bytes of the
    quantized matrices and how many weights they stand for. `why` says, behind "not measured:",
    why neither memory nor speed of the plain weights are the variant's. `engine` names what runs
    the file itself ("llama.cpp, 2 threads") and `timed` times a generation there, of so many tokens
    of prompt and so many more; where it is None `engine` says what the engine lacks.
    """

    weight_bytes: Mapping[str, int]
    quantized: tuple[int, int]
    why: str
    engine: str
    timed: Callable[[int, int], Any] | None = field(default=None, repr=False)
