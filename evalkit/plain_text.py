"""Foreign text made fit for one line of a terminal, a page or a file."""

from __future__ import annotations

import re
import unicodedata

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")
# Characters that turn the direction of the text around them could disguise a name.
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """`text` from a model or file on one line, without control, escape or surrogate characters."""
    text = _BIDI.sub("", _ESCAPE.sub("", text))
    kept = (c if unicodedata.category(c) not in ("Cc", "Cs") else " " for c in text)
    return " ".join("".join(kept).split())
