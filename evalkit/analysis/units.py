"""Units: the pieces of text that are resampled, and the widest claim that so many of them allow.

A window of 2,048 tokens says little about how much its parts vary, and a short text has few
windows. So every window is cut into pieces of about UNIT_TOKENS scored tokens, whatever its length;
that neighbouring pieces resemble each other is what `blocks` allows for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evalkit.analysis.blocks import ENOUGH_DOCUMENTS, FloatArray, IndexArray
from evalkit.records import Claim

UNIT_TOKENS = 64
# With fewer the variance has under four degrees of freedom: only these tokens can be spoken of.
FEWEST_UNITS = 5


@dataclass(frozen=True)
class Units:
    """The units of a pass, in text order.

    Attributes:
        inside: mask of the tokens that belong to a unit, shape (all tokens,).
        unit: unit of each of those tokens, shape (tokens,).
        window: window of each unit; document and text likewise, shape (units,).
        share: the part of its window's tokens that a unit holds, shape (units,).
    """

    inside: npt.NDArray[np.bool_]
    unit: IndexArray
    window: IndexArray
    document: IndexArray
    text: IndexArray
    share: FloatArray

    def __len__(self) -> int:
        return len(self.window)

    def sums(self, values: npt.NDArray[np.generic]) -> FloatArray:
        """Sum over each unit of per-token `values`, shape (all tokens,)."""
        wide = values[self.inside].astype(np.float64)
        return np.asarray(np.bincount(self.unit, wide, len(self)), dtype=np.float64)

    @property
    def claim(self) -> Claim:
        """The widest claim that they allow."""
        return widest_claim(len(self), self.document, self.text)


def cut_units(
    window: IndexArray, chosen: npt.NDArray[np.bool_], document: IndexArray, text: IndexArray
) -> Units:
    """Cut windows into nearly equal units of about UNIT_TOKENS tokens.

    Args:
        window: window of each token, in text order, shape (all tokens,).
        chosen: mask of the windows that take part, shape (windows,).
        document, text: of each window.
    """
    inside = chosen[window]
    window = np.asarray(window[inside], dtype=np.int64)
    tokens = np.bincount(window, minlength=len(chosen))
    pieces = np.where(tokens > 0, np.maximum(1, np.rint(tokens / UNIT_TOKENS)), 0).astype(np.int64)
    place = np.arange(len(window)) - (np.cumsum(tokens) - tokens)[window]
    unit = (np.cumsum(pieces) - pieces)[window] + place * pieces[window] // tokens[window]
    of_unit = np.repeat(np.arange(len(chosen)), pieces)
    share = np.bincount(unit, minlength=len(of_unit)) / tokens[of_unit]
    return Units(inside, unit, of_unit, document[of_unit], text[of_unit], share)


def widest_claim(units: int, documents: IndexArray | None, texts: IndexArray | None) -> Claim:
    """What an interval over so many units can speak of.

    TEXTS where each text has ENOUGH_DOCUMENTS documents, counted as equally long ones; else
    DOCUMENTS; below FEWEST_UNITS units TOKENS. Units are in text order.
    """
    if units < FEWEST_UNITS:
        return Claim.TOKENS
    if documents is None:
        return Claim.DOCUMENTS
    texts = np.zeros(units, dtype=np.int64) if texts is None else texts
    for text in np.unique(texts):
        sizes = np.unique(documents[texts == text], return_counts=True)[1].astype(np.float64)
        if sizes.sum() ** 2 / (sizes**2).sum() < ENOUGH_DOCUMENTS:
            return Claim.DOCUMENTS
    return Claim.TEXTS
