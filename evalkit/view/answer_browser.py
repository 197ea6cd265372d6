"""Answers beside the baseline's to browse in a notebook: two menus over a table, or the table."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from html import escape
from typing import Any

from evalkit.analysis.answers import most_telling
from evalkit.plain_text import clean_block
from evalkit.records.answers import Answer, Answers, AnswersRow
from evalkit.view.answers import facts
from evalkit.view.side_by_side import FORK, fork_of

SHOWN = 20
DIFFERS, FLIPPED, LOOPED, ALL = "differs", "flipped", "loops", "all"
SHOWS = (DIFFERS, FLIPPED, LOOPED, ALL)
_CELL = '<td dir="auto" style="text-align: left; vertical-align: top; white-space: pre-wrap">'
_GREY = "color: #6b7480"


class AnswerBrowser:
    """Shows answers as widgets where ipywidgets is installed, else as a table."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.rows = {row.label: row for row in answers.rows[1:] if row.answers}

    def __repr__(self) -> str:
        return f"answers of {', '.join(self.rows) or 'the baseline alone'}"

    def select(self, variant: str, show: str = DIFFERS) -> list[Answer]:
        """The answers of a variant that differ, flipped or loop, or all; most telling first."""
        row, base = self.rows[variant], self.answers.rows[0]
        if show == ALL:
            return list(row.answers)
        if show == LOOPED:
            return [answer for answer in row.answers if answer.is_looping]
        found = most_telling(row, base, len(row.answers))
        if show == FLIPPED:
            return [one for one in found if one.right != base.answers[one.prompt].right]
        return found

    def html(self, variant: str, show: str = DIFFERS, limit: int = SHOWN) -> str:
        """A table of the first `limit` of these answers; everything is escaped."""
        row, chosen = self.rows[variant], self.select(variant, show)
        names = (self.answers.rows[0].label, row.label)
        heads = "".join(f"<th>{escape(name)}</th>" for name in ("prompt", *names))
        lines = "".join(self._line(row, answer) for answer in chosen[:limit])
        return (
            f"<p>{len(chosen)} of {len(row.answers)} answers; the first {limit} are shown.</p>"
            f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
        )

    def _repr_html_(self) -> str:
        if not self.rows:
            return "<p>No other variant answered.</p>"
        return self.html(next(reversed(self.rows)))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        if self.rows:
            with contextlib.suppress(ImportError):
                shown |= self.widget()._repr_mimebundle_()
        return shown | {"text/html": self._repr_html_(), "text/plain": repr(self)}

    def widget(self) -> Any:
        """Menus over the table; raises ImportError without ipywidgets."""
        import ipywidgets

        def menu(title: str, words: Sequence[str], value: str) -> Any:
            return ipywidgets.Dropdown(options=list(words), value=value, description=title)

        labels = list(self.rows)
        menus = [menu("variant", labels, labels[-1]), menu("show", SHOWS, DIFFERS)]
        shown = ipywidgets.HTML(self.html(*(one.value for one in menus)))

        def update(_: Any) -> None:
            shown.value = self.html(*(one.value for one in menus))

        for one in menus:
            one.observe(update, names="value")
        return ipywidgets.VBox([ipywidgets.HBox(menus), shown])

    def _line(self, row: AnswersRow, answer: Answer) -> str:
        base = self.answers.rows[0].answers[answer.prompt]
        prompt = clean_block(self.answers.prompts[answer.prompt].text)
        words = escape("; ".join(facts(answer, base)))
        sides = (base.text, answer.text), (answer.text, base.text)
        cells = [f"{escape(prompt)}<br><small>{words}</small>", *(_marked(*side) for side in sides)]
        return f"<tr>{''.join(f'{_CELL}{cell}</td>' for cell in cells)}</tr>"


def _marked(text: str, other: str) -> str:
    """A text with its fork from another marked, and what follows it grey."""
    text, other = clean_block(text), clean_block(other)
    fork = fork_of(text, other)
    if fork is None:
        return escape(text)
    rest = f'<span style="{_GREY}">{escape(text[fork:])}</span>'
    return f"{escape(text[:fork])}<b>{FORK}</b>{rest}"
