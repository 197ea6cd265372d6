"""Flipped items to browse in a notebook: three menus over a table, or the table alone."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from html import escape
from typing import Any

from evalkit.numbers import clean
from evalkit.records import Flip

ALL = "all"
SHOWN = 50
_PROMPT = 400


class FlipBrowser:
    """Shows `flips` as widgets where ipywidgets is installed, else as a table."""

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

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        with contextlib.suppress(ImportError):
            shown |= self.widget()._repr_mimebundle_()
        return shown | {"text/html": self._repr_html_(), "text/plain": repr(self)}

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
    """A table of the first `limit` flips, real damage first; everything is escaped."""
    if not flips:
        return "<p>No item changed between right and wrong.</p>"
    rows = "".join(_row(flip) for flip in flips[:limit])
    more = f"<p>{len(flips) - limit} more: evalkit flips --format json lists all.</p>"
    return (
        f"<p>{len(flips)} flips; log-likelihoods in nats, baseline → variant.</p>"
        "<table><thead><tr><th>task</th><th>item</th><th>variant</th><th>direction</th>"
        "<th>end of the prompt</th><th>answers</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{more if len(flips) > limit else ''}"
    )


def _row(flip: Flip) -> str:
    coin = " (within the noise)" if flip.is_coin_flip else ""
    prompt = clean(flip.prompt)
    shown = prompt if len(prompt) <= _PROMPT else f"…{prompt[-_PROMPT:]}"
    cells = (flip.task, str(flip.item), flip.variant, flip.direction + coin, shown)
    left = "".join(f'<td style="text-align:left">{escape(clean(cell))}</td>' for cell in cells)
    return f'<tr>{left}<td style="text-align:left">{_answers(flip)}</td></tr>'


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
        lines.append(f"<strong>{text}</strong>" if choice.strip() == flip.target.strip() else text)
    return "<br>".join(lines)
