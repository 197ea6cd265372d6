"""Text made fit for one line of a terminal, a page or a file, and for what its encoding has."""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from typing import TextIO

_PLAIN = "evalkit-plain"
_HOUR, _MINUTE = 3600, 60
_SIGNS = {
    "\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{EM DASH}": "-", "±": "+-",
    "\N{MULTIPLICATION SIGN}": "x", "÷": "/", "·": "|", "…": "...", "→": "->", "≥": ">=", "≤": "<=",
    "≈": "~", "²": "^2", "µ": "u", "Δ": "delta ", "Σ": "sum ", "\N{NO-BREAK SPACE}": " ",
    "\N{LEFT SINGLE QUOTATION MARK}": "'", "\N{RIGHT SINGLE QUOTATION MARK}": "'",
}  # fmt: skip

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")
# Characters that turn the direction of the text around them could disguise a name.
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Control characters but for tab and line feed, and surrogates.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def clean(text: str) -> str:
    """`text` from a model or file on one line, without control, escape or surrogate characters."""
    text = _BIDI.sub("", _ESCAPE.sub("", text))
    kept = (c if unicodedata.category(c) not in ("Cc", "Cs") else " " for c in text)
    return " ".join("".join(kept).split())


def clean_block(text: str) -> str:
    """`text` freed of the same characters, with its lines, tabs and blanks as they are."""
    return _CONTROL.sub(" ", _BIDI.sub("", _ESCAPE.sub("", text.replace("\r\n", "\n"))))


def clean_columns(line: str) -> str:
    """A line of columns that stand two spaces apart, each cleaned."""
    return "  ".join(map(clean, line.split("  ")))


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = max(1, round(seconds))
    if whole >= _HOUR:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _MINUTE} min {whole % _MINUTE} s" if whole >= _MINUTE else f"{whole} s"


def use_plain_signs(*streams: TextIO) -> None:
    """Write to `streams` what their encoding lacks in plain signs: "+-" for ±, else an escape.

    Nothing that was measured is lost to a terminal or pipe in ASCII or a code page.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_PLAIN)


def _plain_signs(error: UnicodeError) -> tuple[str, int]:
    """The handler of an encoding error: the same text in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    signs = (_SIGNS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(signs), error.end


codecs.register_error(_PLAIN, _plain_signs)
