"""The wikitext task of lm-eval scores detokenized pages but counts words of the original ones."""

from __future__ import annotations

import re

_NUMBER_SEPARATORS = ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."))
_PUNCTUATION = tuple((f" {mark} ", f"{mark} ") for mark in ":;.!?,")
_BRACKETS = (
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
)
_REST = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" \u00b0 ", "\u00b0"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


def detokenized(page: str) -> str:
    """A wikitext page with the blanks around its punctuation removed.

    The same rules in the same order as lm_eval/tasks/wikitext/preprocess_wikitext.py (0.4.13).
    """
    page = re.sub(r"/' [0-9]/", r"/'[0-9]/", page.replace("s '", "s'"))
    for old, new in _NUMBER_SEPARATORS + _PUNCTUATION:
        page = page.replace(old, new)
    for pattern, replacement in _BRACKETS:
        page = re.sub(pattern, replacement, page)
    for old, new in _REST:
        page = page.replace(old, new)
    return page


def word_count(page: str) -> int:
    """Words of the original page as lm-eval counts them: pieces between runs of white space."""
    return len(re.split(r"\s+", page))
