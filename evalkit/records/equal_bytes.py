"""Divergence against bytes: which formats of one model are worth what they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Against every smaller format: closer than all; not told from one; one is closer.
Place = Literal["front", "tied", "dominated"]


@dataclass(frozen=True)
class FormatPair:
    """Mean KL divergence of `variant` less that of `other`, token by token, in nats.

    Both are labels of variants; `low` and `high` bound the difference (95 %).
    """

    variant: str
    other: str
    delta: float
    low: float
    high: float

    @property
    def is_tied(self) -> bool:
        """Whether the two are not told apart."""
        return not (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class FormatRow:
    """One format: its true bytes, bits a weight, and divergence from the baseline in nats.

    `variants` are the labels of its rows in the comparison: several where it was calibrated with
    several seeds. Values are then the mean over them, with the interval of that mean over tokens,
    and `kl_least` and `kl_most` are those of single seeds. `place` is where it stands on the
    Pareto front, `other` the smaller format that decides it.
    """

    label: str
    variants: tuple[str, ...]
    bytes: float
    bits_per_weight: float | None
    bits_per_quantized_weight: float | None
    kl: float
    low: float
    high: float
    kl_least: float
    kl_most: float
    place: Place
    other: str = ""

    @property
    def words(self) -> str:
        """The place in words."""
        if self.place == "front":
            return "front"
        return f"not told from {self.other}" if self.place == "tied" else f"{self.other} is closer"


@dataclass(frozen=True)
class EqualBytes:
    """The formats of a comparison from the smallest up, and the paired difference of every two."""

    rows: tuple[FormatRow, ...] = ()
    pairs: tuple[FormatPair, ...] = ()
