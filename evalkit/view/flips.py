"""The flip ledger as text, JSON and the table of a notebook."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.numbers import clean
from evalkit.paths import called_words
from evalkit.records import Flip
from evalkit.records import to_json as plain
from evalkit.view.export import json_text
from evalkit.view.flip_browser import flips_html

_PROMPT_LENGTH = 300
_WIDTH = 100


@dataclass(frozen=True)
class Flips:
    """Task items that changed between right and wrong; a text shows the first `shown` of them."""

    items: tuple[Flip, ...]
    shown: int = 20


def to_text(flips: Flips) -> str:
    """Counts by task and variant, then the first items with prompt and margins."""
    count = len(flips.items)
    if not count:
        return "no item changed between right and wrong"
    lines = [*_counts(flips.items), ""]
    for flip in flips.items[: flips.shown]:
        lines += [*_item(flip), ""]
    if count > flips.shown:
        lines.append(f"{count - flips.shown} more: --limit {count} or --format json shows all")
    return "\n".join(lines).rstrip()


def to_json(flips: Flips) -> str:
    """All flips as one JSON list of objects with the fields of `Flip`."""
    return json_text([plain(flip) for flip in flips.items], indent=1)


def to_html(flips: Flips) -> str:
    """The first flips as a table; everything is escaped."""
    return flips_html(flips.items)


def _counts(flips: Sequence[Flip]) -> list[str]:
    groups = Counter((flip.variant, flip.task, flip.direction) for flip in flips)
    coins = Counter((f.variant, f.task, f.direction) for f in flips if f.is_coin_flip)
    return [
        f"{called_words(variant)} · {task}: {count} {direction}"
        + (f" ({coins[key]} within the noise)" if coins[key] else "")
        for key, count in groups.items()
        for variant, task, direction in [key]
    ]


def _item(flip: Flip) -> list[str]:
    coin = ", within the noise" if flip.is_coin_flip else ""
    prompt = clean(flip.prompt)
    shown = prompt if len(prompt) <= _PROMPT_LENGTH else "…" + prompt[-_PROMPT_LENGTH:]
    lines = [f"{called_words(flip.variant)} · {flip.task} item {flip.item}: {flip.direction}{coin}"]
    lines += textwrap.wrap(shown, _WIDTH, initial_indent="  ", subsequent_indent="  ")
    if len(flip.choices) > 1:
        lines += [_choice(flip, number) for number in range(len(flip.choices))]
    elif flip.baseline_answer or flip.variant_answer:
        lines.append(f"    wanted: {clean(flip.target)}")
        lines.append(f"    baseline: {clean(flip.baseline_answer)}")
        lines.append(f"    variant: {clean(flip.variant_answer)}")
    if flip.baseline_margin is not None and flip.variant_margin is not None:
        lines.append(f"    margin: {flip.baseline_margin:+.3f} → {flip.variant_margin:+.3f} nats")
    return lines


def _choice(flip: Flip, number: int) -> str:
    values = [
        f"{side[number]:.2f}" if number < len(side) else "–"
        for side in (flip.baseline_loglikelihoods, flip.variant_loglikelihoods)
    ]
    right = "  ← right" if flip.is_right(number) else ""
    return f"    {values[0]:>8} → {values[1]:>8}  {clean(flip.choices[number])}{right}"
