"""How values of options are read: times, batch sizes, words of `--only`, arguments of templates."""

from __future__ import annotations

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
