"""Answers side by side as one HTML file without network; its wording is in templates/answers.html.

Prompts and answers are embedded as JSON, and a script of the page puts them into the page as text,
a few at a time as it is scrolled: thousands of prompts open at once, and whatever a model writes is
shown and never run. What an answer shares with the baseline's is stored once.
"""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

from evalkit.numbers import clean
from evalkit.paths import called
from evalkit.plain_text import clean_block
from evalkit.records.answers import Answer, Answers, AnswersRow, Prompt
from evalkit.view.answers import faults, grid, heading, remarks
from evalkit.view.export import finite
from evalkit.view.pages import asset, script_hash, templates
from evalkit.view.report_tables import finding
from evalkit.view.side_by_side import fork_of


def render_answers(found: Answers) -> str:
    """The page of the answers."""
    script = asset("answers.js")
    return templates(finding=finding).get_template("answers.html").render(
        title=clean(called(found.model.name)),
        sentence=clean(found.sentence),
        heading=heading(found),
        grid=grid(found),
        remarks=remarks(found),
        variants=[clean(row.label) for row in found.rows[1:]],
        checked=any(row.checks for row in found.rows),
        data=_embedded(_data(found)),
        script=Markup(script),
        script_hash=script_hash(script),
        style=Markup(asset("report.css") + asset("answers.css")),
    )  # fmt: skip


def _data(found: Answers) -> dict[str, Any]:
    """What the script of the page reads; see there."""
    base = found.rows[0]
    tie = found.noise_floor.margin if found.noise_floor else None
    return {
        "variants": [clean(row.label) for row in found.rows],
        "prompts": [_prompt(prompt) for prompt in found.prompts],
        "answers": [_answers(row, base, tie) for row in found.rows],
    }


def _prompt(prompt: Prompt) -> dict[str, Any]:
    turns = [[clean(turn.role), clean_block(turn.content)] for turn in prompt.messages]
    wanted = f"wanted ({prompt.check}): {clean(prompt.reference)}" if prompt.check else ""
    return {"turns": turns or [["", clean_block(prompt.text)]], "wanted": wanted}


def _answers(row: AnswersRow, base: AnswersRow, tie: float | None) -> list[list[Any]] | None:
    """The answers of a variant; None where it failed."""
    if not row.answers:
        return None
    texts = [clean_block(answer.text) for answer in base.answers]
    return [
        _answer(answer, "" if row is base else texts[answer.prompt], tie) for answer in row.answers
    ]


def _answer(answer: Answer, base: str, tie: float | None) -> list[Any]:
    text = clean_block(answer.text)
    fork = fork_of(text, base)
    shared = len(text) if fork is None else fork
    is_tie = tie is not None and answer.margin is not None and answer.margin <= tie
    return [
        # JavaScript counts in units of UTF-16.
        len(text[:shared].encode("utf-16-le")) // 2,
        text[shared:],
        len(answer.tokens),
        answer.stop,
        answer.first_difference,
        None if answer.margin is None else float(f"{answer.margin:.3g}"),
        is_tie,
        answer.right,
        faults(answer),
    ]


def _embedded(content: Any) -> Markup:
    """JSON that no element of HTML can end."""
    text = json.dumps(finite(content), ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
