"""The flips of a report: which of them to show, and their answers in words."""

from __future__ import annotations

import html
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from evalkit import numbers
from evalkit.records import Comparison, Flip
from evalkit.view.cells import label

MOST_FLIPS = 1200
MOST_BYTES = 2_000_000
PROMPT, CHOICE, MOST_CHOICES = 280, 100, 10
# What the markup around one flip weighs, beside its text.
_MARKUP = 700


@dataclass(frozen=True)
class ShownChoice:
    """One answer: its text, log-likelihoods in words, and whether it is the right one."""

    text: str
    values: str
    is_target: bool


@dataclass(frozen=True)
class ShownFlip:
    """A flip as cells of text."""

    task: str
    item: int
    variant: str
    direction: str
    prompt: str
    choices: tuple[ShownChoice, ...]
    remark: str


@dataclass(frozen=True)
class FlipSection:
    """The flips that are shown, how many there are, and the words to filter by."""

    shown: tuple[ShownFlip, ...]
    total: int
    tasks: tuple[str, ...]
    variants: tuple[str, ...]
    directions: tuple[str, ...]


def flip_section(
    comparison: Comparison, flips: Sequence[Flip], count: int | None = None
) -> FlipSection | None:
    """The flips to show, of `count` in all; None where there are none.

    Beyond the limits of number and size they are taken in turn from each variant, task and
    direction, so that no combination crowds out another.
    """
    if not flips:
        return None
    names = {row.variant.label: label(row) for row in comparison.rows}
    chosen = list(_within(MOST_BYTES, (_shown(flip, names) for flip in _in_turn(flips))))
    tasks = tuple(dict.fromkeys(flip.task for flip in chosen))
    variants = tuple(dict.fromkeys(flip.variant for flip in chosen))
    directions = tuple(dict.fromkeys(flip.direction for flip in chosen))
    chosen.sort(key=lambda f: (variants.index(f.variant), tasks.index(f.task), f.item))
    return FlipSection(tuple(chosen), count or len(flips), tasks, variants, directions)


def _in_turn(flips: Sequence[Flip]) -> Iterator[Flip]:
    """The first flip of each variant, task and direction, then the second of each, and so on."""
    groups: defaultdict[tuple[str, str, str], list[Flip]] = defaultdict(list)
    for flip in flips:
        groups[flip.variant, flip.task, flip.direction].append(flip)
    rounds = itertools.zip_longest(*groups.values())
    taken = (flip for one in rounds for flip in one if flip is not None)
    return itertools.islice(taken, MOST_FLIPS)


def _within(budget: int, flips: Iterable[ShownFlip]) -> Iterator[ShownFlip]:
    for flip in flips:
        texts = (flip.prompt, *(choice.text for choice in flip.choices))
        budget -= sum(len(html.escape(text).encode()) for text in texts) + _MARKUP
        if budget < 0:
            return
        yield flip


def _shown(flip: Flip, names: dict[str, str]) -> ShownFlip:
    variant = names.get(flip.variant) or numbers.clean(flip.variant)
    return ShownFlip(
        task=numbers.clean(flip.task),
        item=flip.item,
        variant=variant,
        direction=flip.direction,
        prompt=_prompt(flip.prompt),
        choices=tuple(_choices(flip) if len(flip.choices) > 1 else _answers(flip)),
        remark="within the noise" if flip.is_coin_flip else _margins(flip),
    )


def _prompt(text: str) -> str:
    """The end of a prompt, where the question is, with its lines."""
    lines = [numbers.clean(line) for line in text[-4 * PROMPT :].splitlines()]
    joined = "\n".join(line for line in lines if line)
    return joined if len(joined) <= PROMPT else f"…{joined[-PROMPT:]}"


def _choices(flip: Flip) -> Iterator[ShownChoice]:
    for number, text in enumerate(flip.choices[:MOST_CHOICES]):
        sides = (flip.baseline_loglikelihoods, flip.variant_loglikelihoods)
        values = [
            numbers.plain(side[number], 2) if number < len(side) else numbers.MISSING
            for side in sides
        ]
        yield ShownChoice(_short(text), f"{values[0]} → {values[1]}", flip.is_right(number))


def _answers(flip: Flip) -> Iterator[ShownChoice]:
    yield ShownChoice(_short(flip.target), "wanted", True)
    yield ShownChoice(_short(flip.baseline_answer), "baseline", False)
    yield ShownChoice(_short(flip.variant_answer), "variant", False)


def _margins(flip: Flip) -> str:
    if flip.baseline_margin is None or flip.variant_margin is None:
        return ""
    before, after = (numbers.plain(m, 2) for m in (flip.baseline_margin, flip.variant_margin))
    return f"margin {before} → {after} nats"


def _short(text: str) -> str:
    # Cleaning looks at every character, so most of a very long answer is left out before.
    text = numbers.clean(text[: 4 * CHOICE])
    return text if len(text) <= CHOICE else f"{text[:CHOICE]}…"
