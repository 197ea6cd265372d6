"""What text was used for what, so that nothing is judged on text that it was made with.

A method is calibrated on one text, the damage of its pieces is measured on a second, and what is
made of both is judged on a third. Texts are known by their content: the same one under another name
is caught, and so are shared documents and passages. What a model writes itself is known by the seed
it was drawn with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evalkit.errors import DataError
from evalkit.texts.calibration import NGRAM, shared_13grams
from evalkit.texts.documents import Text

Purpose = Literal["calibration", "sensitivity", "evaluation"]
_SHOWN = 40
# Of the documents of one text: a few short ones, such as headings, are the same everywhere.
_MANY = 0.1


@dataclass(frozen=True)
class Use:
    """One text and what it is used for; without `text` what the model itself writes with `seed`."""

    purpose: Purpose
    name: str
    text: Text | None = None
    seed: int = 0


class TextUses:
    """The texts of one command by what they are used for; those of two purposes share nothing."""

    def __init__(self, *uses: Use) -> None:
        self._uses: list[Use] = []
        for use in uses:
            self.add(use)

    def add(self, use: Use, fix: str = "give another text") -> None:
        """Note a use; raises DataError, ending in `fix`, where text of it has another purpose."""
        for other in self._uses:
            if other.purpose != use.purpose and (why := _shared(other, use)):
                words = f"{other.purpose} and {use.purpose} text"
                raise DataError(f"{words} overlap ({other.name} and {use.name}): {why}; {fix}")
        self._uses.append(use)

    def names(self, purpose: Purpose) -> tuple[str, ...]:
        """The names of the texts of one purpose, each once."""
        return tuple(dict.fromkeys(one.name for one in self._uses if one.purpose == purpose))


def _shared(one: Use, other: Use) -> str:
    """What two uses have in common, in words; "" for nothing."""
    if one.text is None or other.text is None:
        drawn_alike = one.text is other.text and one.seed == other.seed
        return f"the model writes both with seed {one.seed}" if drawn_alike else ""
    if one.text.sha256 == other.text.sha256:
        return "they are the same text"
    mine, theirs = _documents(one.text), _documents(other.text)
    both = [words for words in theirs if words in mine]
    if len(both) > _MANY * min(len(mine), len(theirs)):
        return f"{len(both)} documents are the same, for example {both[0][:_SHOWN]!r}"
    overlap = shared_13grams(one.text.documents, other.text.documents)
    if overlap.count:
        return f"{overlap.count} shared {NGRAM}-grams, for example {overlap.example!r}"
    return ""


def _documents(text: Text) -> dict[str, None]:
    """What the documents say that hold words, each once, in their order."""
    return dict.fromkeys(filter(None, (" ".join(one.split()) for one in text.documents)))
