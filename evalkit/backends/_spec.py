"""What a backend file declares about itself, readable without importing any heavy library."""

from __future__ import annotations

from dataclasses import dataclass

from evalkit.records import OptionValue


@dataclass(frozen=True)
class Option:
    """One `key=value` option of a backend.

    `allowed` lists the admissible values, or `minimum` and `maximum` bound a number. An option
    with `shown` is part of the canonical form even at its default (group_size names the method).
    """

    name: str
    default: OptionValue
    help: str
    allowed: tuple[OptionValue, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    shown: bool = False


@dataclass(frozen=True)
class BackendSpec:
    """Name, precisions, options and needs of a backend.

    `requires` are distribution names for the error that gives the install line; `quantizes` says
    that a checkpoint is made once and reused (else the weights are converted while loading).
    """

    name: str
    summary: str
    precisions: tuple[str, ...]
    options: tuple[Option, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")
    requires: tuple[str, ...] = ()
    install: str = ""
    quantizes: bool = False
    needs_calibration: bool = False
