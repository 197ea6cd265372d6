"""GPTQModel's `dynamic`: settings of single modules by patterns of their names.

The first pattern that matches from the start of a name counts: "-:PATTERN" leaves the module
unquantized, "+:PATTERN" replaces settings. vLLM reads the same rules, but asks them for the name of
the matrix that it has joined (`qkv_proj`, `gate_up_proj`), so the patterns match that one too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from evalkit.analysis.fused import fused_groups
from evalkit.backends._mixed import Parts
from evalkit.records import Variant

Settings = Mapping[str, Any]
_LEFT = "-:"


def most_frequent(parts: Parts) -> Variant:
    """The variant that most of the quantized modules have."""
    packed = [part for part in parts.values() if part is not None]
    return max(dict.fromkeys(packed), key=packed.count)


def rules(parts: Parts, asked: Callable[[Variant], Settings]) -> dict[str, dict[str, Any]] | None:
    """The rules for all modules that are not as most of them are; None where there are none.

    `asked` are the settings of a variant as GPTQModel's configuration takes them.
    """
    base = most_frequent(parts)
    found: dict[str, dict[str, Any]] = {}
    for joined, names in fused_groups(parts).items():
        together = len({parts[name] for name in names}) == 1
        for group in [(*names, joined)] if together else [(name,) for name in names]:
            part = parts[group[0]]
            if part != base:
                own = None if part is None else asked(part)
                pattern = "|".join(re.escape(name) for name in dict.fromkeys(group))
                found[f"{'+:' if own else _LEFT}^(?:{pattern})$"] = {
                    key: value for key, value in (own or {}).items() if value != asked(base)[key]
                }
    return found or None


def settings_of(made: Settings, module: str) -> Settings | None:
    """The settings of `module` in a checkpoint made by `made`; None where it is not quantized."""
    for pattern, own in (made.get("dynamic") or {}).items():
        if re.match(pattern[2:] if pattern[:2] in (_LEFT, "+:") else pattern, module):
            return None if pattern.startswith(_LEFT) else {**made, **own}
    return made
