"""How values of options are read: times, batch sizes, words of `--only`, arguments of templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evalkit.declaration import Numbers, Words, words
from evalkit.errors import UsageError, unknown

# What compare can measure, by the words of `--only`.
MEASURED = {
    "quality": frozenset({"text", "tasks"}),
    "text": frozenset({"text"}),
    "tasks": frozenset({"tasks"}),
    "speed": frozenset({"speed"}),
    "memory": frozenset({"memory"}),
}


def seconds(text: str | float) -> float:
    """A time such as "10m", "90s", "1h" or a number of seconds."""
    if not isinstance(text, str):
        number = float(text)
    else:
        factors = {"s": 1, "m": 60, "h": 3600}
        digits, unit = (text[:-1], text[-1]) if text[-1:] in factors else (text, "s")
        try:
            number = float(digits) * factors[unit]
        except ValueError:
            number = -1.0
    if not 0 <= number < float("inf"):
        raise UsageError(f"time {text!r}: write seconds, minutes or hours such as 90s, 10m, 1h")
    return number


def budgets(value: str | float | Sequence[float]) -> tuple[float, ...]:
    """Bits a weight, from 0, from a number, a list, or words joined by commas."""
    return _each("--bits", value, float, "bits such as 4.5, or 3.6,4.6,6")


def sizes(value: str | float | Sequence[float]) -> tuple[float, ...]:
    """Bytes, from numbers or words such as "90MB,1.2GB" in decimal units."""
    return _each("--bytes", value, _size, "a size such as 90MB, or 90MB,1.2GB")


def _each(
    flag: str,
    value: str | float | Sequence[float],
    read: Callable[[str], float],
    allowed: str,
) -> tuple[float, ...]:
    """Positive numbers, each once, in the order in which they are given."""
    listed = value.split(",") if isinstance(value, str) else value
    given = [listed] if isinstance(listed, int | float) else listed
    try:
        found = tuple(dict.fromkeys(read(str(one).strip()) for one in given))
    except ValueError:
        found = (-1.0,)
    if not all(0 < one < float("inf") for one in found):
        raise UsageError(f"{flag} {value!r}: write {allowed}")
    return found


def _size(word: str) -> float:
    powers = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
    number, factor = word.upper().removesuffix("B"), 1.0
    if word.upper()[-2:] in powers:
        number, factor = word[:-2], powers[word.upper()[-2:]]
    return float(number) * factor


def batch_sizes(value: Numbers) -> tuple[int, ...] | str:
    """ "auto", or batch sizes from 1 without repetitions."""
    if value == "auto":
        return "auto"
    sizes = _numbers(value)
    if not sizes or min(sizes) < 1:
        raise UsageError(f"--batch-sizes {value!r}: write auto, or numbers from 1 such as 1,2,4,8")
    return tuple(dict.fromkeys(sizes))


def only(value: Words) -> tuple[str, ...]:
    """Words that name what is measured, each once; nothing stands for everything."""
    found = tuple(dict.fromkeys(words(value, "comma")))
    for one in found:
        if one not in MEASURED:
            raise unknown("word of --only", one, MEASURED)
    return found


def contexts(value: Numbers) -> tuple[int, ...]:
    """Lengths of prompts in tokens."""
    found = _numbers(value)
    if found is None:
        raise UsageError(f"--contexts {value!r}: write numbers of tokens such as 512,2048")
    return found


def chat_template_args(value: Words) -> tuple[str, ...]:
    """Words KEY=VALUE, each key once; a value is JSON (false, 3) or else text."""
    found = words(value, "comma")
    keys = [one.partition("=")[0].strip() for one in found]
    for one, key in zip(found, keys, strict=True):
        if not key.isidentifier() or "=" not in one or keys.count(key) > 1:
            raise UsageError(
                f"--chat-template-args {one!r}: write KEY=VALUE, each key once, such as "
                "enable_thinking=false"
            )
    return found


def _numbers(value: Any) -> tuple[int, ...] | None:
    """Whole numbers from a number, a list, or words joined by commas; None where one is none."""
    if isinstance(value, str):
        value = [word for word in value.split(",") if word.strip()]
    try:
        return tuple(int(one) for one in (value if isinstance(value, list | tuple) else [value]))
    except (TypeError, ValueError):
        return None
