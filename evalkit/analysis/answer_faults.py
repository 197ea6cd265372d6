"""What can be said of one answer by itself: whether it is right, empty, looping or broken JSON."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from evalkit.records.answers import Prompt

# An answer loops where it ends in at least so many repetitions and tokens of one sequence.
LOOP_REPETITIONS, LOOP_TOKENS = 3, 20
# Letters of a script are counted where there are as many; fewer tell nothing.
_LEAST_LETTERS = 8
_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?")
_JSON_ASKED = re.compile(r"\bJSON\b")
_TOLERANCE = 1e-6


def is_right(prompt: Prompt, text: str) -> bool | None:
    """What the prompt's check says of an answer; None where it has none.

    exact: equal to the reference but for blanks around it. contains: the reference stands in it, in
    capitals or not. regex: it is found in it. number: the last number equals the reference. json:
    it holds a JSON object or array that can be read.
    """
    match prompt.check:
        case "exact":
            return text.strip() == prompt.reference.strip()
        case "contains":
            return prompt.reference.casefold() in text.casefold()
        case "regex":
            return re.search(prompt.reference, text) is not None
        case "number":
            return _same_number(text, prompt.reference)
        case "json":
            return holds_json(text)
    return None


def asks_for_json(prompt: Prompt) -> bool:
    """Whether JSON is asked for: by the check, or by the word JSON in the prompt or system turn."""
    turns = [message.content for message in prompt.messages if message.role != "assistant"]
    return prompt.check == "json" or any(map(_JSON_ASKED.search, [prompt.text, *turns]))


def holds_json(text: str) -> bool:
    """Whether the text holds a whole JSON object or array, from its first bracket on."""
    start = min((place for place in map(text.find, "{[") if place >= 0), default=-1)
    if start < 0:
        return False
    try:
        json.JSONDecoder().raw_decode(text[start:])
    except (ValueError, RecursionError):
        return False
    return True


def is_looping(tokens: Sequence[int]) -> bool:
    """Whether the tokens end in one sequence again and again (LOOP_REPETITIONS, LOOP_TOKENS)."""
    for period in range(1, len(tokens) // LOOP_REPETITIONS + 1):
        wanted = max(LOOP_REPETITIONS * period, LOOP_TOKENS)
        if wanted > len(tokens):
            continue
        tail = tokens[-wanted:]
        if all(tail[i] == tail[i - period] for i in range(period, wanted)):
            return True
    return False


def script_of(text: str) -> str:
    """The script of most letters ("LATIN", "CYRILLIC", "CJK"), "" where there are too few.

    It is the first word of a letter's name in Unicode. Which language it is cannot be told so.
    """
    counts: Counter[str] = Counter()
    for sign, count in Counter(text).items():
        if sign.isalpha() and (name := unicodedata.name(sign, "")):
            counts[name.split(" ")[0]] += count
    return counts.most_common(1)[0][0] if counts.total() >= _LEAST_LETTERS else ""


def _same_number(text: str, reference: str) -> bool:
    found = _NUMBER.findall(text)
    if not found:
        return False
    try:
        last, wanted = (float(word.replace(",", "")) for word in (found[-1], reference))
    except ValueError:
        return False
    return math.isclose(last, wanted, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
