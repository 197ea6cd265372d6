"""Flipped items to browse in a notebook: folded tables, and on request menus over them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from evalkit.numbers import clean, counted
from evalkit.paths import called_words
from evalkit.records import Flip

ALL = "all"
SHOWN = 50
_PROMPT = 400


class FlipBrowser:
    """Shows `flips` as tables to unfold; `widget()` has menus, where ipywidgets is installed.

    A widget is not shown of itself: of one, an exported notebook keeps nothing.
    """

    def __init__(self, flips: Sequence[Flip]) -> None:
        self.flips = list(flips)

    def __len__(self) -> int:
        return len(self.flips)

    def __repr__(self) -> str:
        return f"{len(self.flips)} flips"

    def select(self, task: str = ALL, variant: str = ALL, direction: str = ALL) -> list[Flip]:
        """The flips of a task, variant and direction; "all" takes every one."""
        return [
            flip
            for flip in self.flips
            if task in (ALL, flip.task)
            and variant in (ALL, flip.variant)
            and direction in (ALL, flip.direction)
        ]

    def _repr_html_(self) -> str:
        return flips_html(self.flips)

    def widget(self) -> Any:
        """Menus for task, variant and direction over the table; raises ImportError without
        ipywidgets."""
        import ipywidgets

        def menu(title: str, words: Sequence[str]) -> Any:
            options = [ALL, *dict.fromkeys(words)]
            return ipywidgets.Dropdown(options=options, description=title)

        menus = [
            menu("task", [flip.task for flip in self.flips]),
            menu("variant", [flip.variant for flip in self.flips]),
            menu("direction", [flip.direction for flip in self.flips]),
        ]
        shown = ipywidgets.HTML(flips_html(self.flips))

        def update(_: Any) -> None:
            shown.value = flips_html(self.select(*(one.value for one in menus)))

        for one in menus:
            one.observe(update, names="value")
        return ipywidgets.VBox([ipywidgets.HBox(menus), shown])


def flips_html(flips: Sequence[Flip], limit: int = SHOWN) -> str:
    """The flips by variant, task and direction, the first `limit` of each; everything is escaped.

    It is whole without widgets and scripts, so that an exported notebook holds it as it was.
    """
    if not flips:
        return "<p>No item changed between right and wrong.</p>"
    groups: dict[tuple[str, str, str], list[Flip]] = {}
    for flip in flips:
        groups.setdefault((flip.variant, flip.task, flip.direction), []).append(flip)
    said = f"{counted(len(flips), 'flip')}; log-likelihoods in nats, baseline → variant."
    shown = [
        _group(key, group, limit, not place) for place, (key, group) in enumerate(groups.items())
    ]
    return f"<p>{said} The right answer is bold.</p>{''.join(shown)}"


def _group(key: tuple[str, str, str], flips: Sequence[Flip], limit: int, is_open: bool) -> str:
    variant, task, direction = key
    title = escape(clean(f"{called_words(variant)} · {task} · {direction}: {len(flips):,}"))
    rows = "".join(map(_row, flips[:limit]))
    more = f"<p>{len(flips) - limit:,} more: evalkit flips --format json lists all.</p>"
    return (
        f"<details{' open' if is_open else ''}><summary>{title}</summary>"
        "<table><thead><tr><th>item</th><th>end of the prompt</th><th>answers</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{more if len(flips) > limit else ''}</details>"
    )


def _row(flip: Flip) -> str:
    coin = " (within the noise)" if flip.is_coin_flip else ""
    prompt = clean(flip.prompt)
    shown = prompt if len(prompt) <= _PROMPT else f"…{prompt[-_PROMPT:]}"
    cells = (escape(f"{flip.item}{coin}"), escape(shown), _answers(flip))
    return "".join(
        ["<tr>", *(f'<td style="text-align:left">{cell}</td>' for cell in cells), "</tr>"]
    )


def _answers(flip: Flip) -> str:
    if len(flip.choices) < 2:
        words = (("wanted", flip.target), ("baseline", flip.baseline_answer),
                 ("variant", flip.variant_answer))  # fmt: skip
        return "<br>".join(f"{name}: {escape(clean(word))}" for name, word in words)
    lines = []
    for number, choice in enumerate(flip.choices):
        values = [
            f"{side[number]:.2f}" if number < len(side) else "–"
            for side in (flip.baseline_loglikelihoods, flip.variant_loglikelihoods)
        ]
        text = f"{escape(clean(choice))} {values[0]} → {values[1]}"
        lines.append(f"<strong>{text}</strong>" if flip.is_right(number) else text)
    return "<br>".join(lines)
