"""Answers as a sheet and as JSON.

The JSON object has the schema "evalkit.answers/1": `prompts`, `noise_floor`, and a row a variant
with the fields of the record, its answers among them.
"""

from __future__ import annotations

from collections.abc import Sequence

from evalkit import numbers
from evalkit.analysis.answers import most_telling
from evalkit.paths import called
from evalkit.records import to_json as plain
from evalkit.records.answers import Answer, Answers, AnswersRow, Estimate
from evalkit.view.cells import Grid, Line, margin_text
from evalkit.view.export import json_text
from evalkit.view.sheet import Sheet
from evalkit.view.side_by_side import Pair

SCHEMA = "evalkit.answers/1"
# Pairs of answers under the table, of each variant.
SHOWN = 2
_PROMPT = 120


def to_json(found: Answers) -> str:
    """One object (see the module's docstring)."""
    content = plain(found)
    return json_text({"schema": SCHEMA, **content}, indent=1)


def sheet(found: Answers) -> Sheet:
    """The table of variants, the most telling pairs of answers, and what is to be known of both."""
    return Sheet(
        title="Answers",
        heading=heading(found),
        grid=grid(found),
        sentence=found.sentence,
        remarks=remarks(found),
        pairs=_pairs(found),
    )


def heading(found: Answers) -> list[str]:
    """What was asked, in pieces of a few words."""
    pieces = [
        called(found.model.name),
        numbers.counted(len(found.prompts), "prompt"),
        found.decoding,
    ]
    return [*pieces, f"baseline {found.baseline}"]


def grid(found: Answers) -> Grid:
    """One line a variant, then how often the baseline parts from itself."""
    columns = [column for column in _COLUMNS if any(column[1](row) for row in found.rows)]
    lines = [_line(row, [write(row) for _, write in columns], found) for row in found.rows]
    titles = [title for title, _ in columns]
    floor = found.noise_floor
    if floor is not None:
        cells = {
            "identical": numbers.percent(1 - floor.forked.value),
            "lead there": "" if floor.margin is None else numbers.small(floor.margin),
        }
        ending = ("",) if _has_checks(found) else ()
        noise = (*(cells.get(title, "") for title in titles), *ending)
        lines.append(Line("noise floor", noise, finding="noise"))
    if not _has_checks(found):
        return Grid(tuple(titles), tuple(lines))
    # The verdict is the last thing that a narrow table leaves out.
    importance = (*range(1, len(titles) + 1), 0)
    return Grid((*titles, f"verdict at {margin_text(found)}"), tuple(lines), importance)


def remarks(found: Answers) -> list[str]:
    """What ran, what the noise floor is, and the notes."""
    lines = []
    floor = found.noise_floor
    if floor is not None:
        tie = "" if not floor.margin else (
            f"; where the baseline's likeliest token led by {numbers.small(floor.margin)} nats or"
            " less, rounding decides (a tie)"
        )  # fmt: skip
        share = numbers.percent(floor.forked.value)
        lines.append(
            f"noise floor: {share} of {floor.forked.n} answers came out otherwise with"
            f" {floor.batch}{tie}"
        )
    if any(row.divergence for row in found.rows):
        lines.append(
            "KL: mean divergence per token along the baseline's own answers, in nats; parts at:"
            " median first other token of the answers that differ"
        )
    kernels = dict.fromkeys(f"{row.label}: {row.kernel}" for row in found.rows if row.kernel)
    lines.append(f"ran: {'; '.join(kernels)}")
    notes = dict.fromkeys([*found.notes, *(note for row in found.rows for note in row.notes)])
    return [*lines, *notes, f"results: {found.store}"]


def pair_of(found: Answers, row: AnswersRow, answer: Answer) -> Pair:
    """An answer beside the baseline's, with what is to be said of it."""
    base = found.rows[0].answers[answer.prompt]
    prompt = numbers.clean(found.prompts[answer.prompt].text)
    shown = prompt if len(prompt) <= _PROMPT else f"{prompt[:_PROMPT]}…"
    words = "; ".join(facts(answer, base))
    return Pair(
        f"Prompt {answer.prompt + 1}: {shown} ({words})",
        (found.rows[0].label, row.label),
        (base.text, answer.text),
    )


def facts(answer: Answer, base: Answer) -> list[str]:
    """What is to be said of an answer beside the baseline's, in a few words each."""
    words = []
    if base.right is not None and base.right != answer.right:
        words.append("right to wrong" if base.right else "wrong to right")
    if answer.first_difference is not None:
        lead = "" if answer.margin is None else f", where it led by {numbers.small(answer.margin)}"
        words.append(f"parts at token {answer.first_difference + 1}{lead}")
    return [*words, *faults(answer)]


def faults(answer: Answer) -> list[str]:
    """What is wrong with an answer by itself."""
    named = {
        "loops": answer.is_looping,
        "empty": not answer.text.strip(),
        "broken JSON": answer.is_broken_json,
        "other script": answer.is_other_script,
    }
    return [name for name, holds in named.items() if holds]


def _pairs(found: Answers) -> Sequence[Pair]:
    return [
        pair_of(found, row, answer)
        for row in found.rows[1:]
        for answer in most_telling(row, found.rows[0], SHOWN)
    ]


def _line(row: AnswersRow, cells: Sequence[str], found: Answers) -> Line:
    name = numbers.clean(row.label or row.variant)
    if row.status != "ok":
        message = f"{row.status.replace('_', ' ')}: {row.message}"
        return Line(name, message=numbers.clean(message), finding="failed")
    shown = tuple(cell or numbers.MISSING for cell in cells)
    if not _has_checks(found):
        return Line(name, shown, finding="baseline" if row is found.rows[0] else "")
    verdict = row.checks.verdict if row.checks else numbers.MISSING
    findings = (*("" for _ in shown), verdict)
    return Line(name, (*shown, verdict), finding=verdict, findings=findings)


def _has_checks(found: Answers) -> bool:
    return any(row.checks for row in found.rows)


def _identical(row: AnswersRow) -> str:
    return _percent(row.identical)


def _parts_at(row: AnswersRow) -> str:
    median = row.first_difference_median
    return "" if median is None else f"{median.value + 1:.0f}"


def _ties(row: AnswersRow) -> str:
    return _percent(row.near_ties)


def _lead(row: AnswersRow) -> str:
    return "" if row.margin_median is None else numbers.small(row.margin_median)


def _divergence(row: AnswersRow) -> str:
    return "" if row.divergence is None else numbers.small(row.divergence.value)


def _right(row: AnswersRow) -> str:
    if row.checks is None:
        return ""
    delta = row.checks.delta
    if delta is None:
        return numbers.percent(row.checks.right.value)
    low, high = (None if bound is None else 100 * bound for bound in (delta.low, delta.high))
    return numbers.difference(100 * delta.value, low, high, least=1)


def _length(row: AnswersRow) -> str:
    delta = row.length_delta
    if delta is None:
        return "" if row.length is None else f"{row.length.value:.0f}"
    return numbers.difference(delta.value, delta.low, delta.high, least=0)


def _faults(row: AnswersRow) -> str:
    """How many answers loop, are empty or hold broken JSON, of how many; those that there are."""
    named = {
        "loop": row.looping,
        "empty": row.empty,
        "broken JSON": row.broken_json,
        "other script": row.other_script,
    }
    counts = [
        f"{round(one.value * one.n)} of {one.n} {name}"
        for name, one in named.items()
        if one is not None and one.value
    ]
    return ", ".join(counts) or "none"


def _percent(estimate: Estimate | None) -> str:
    return "" if estimate is None else numbers.percent(estimate.value)


_COLUMNS = (
    ("identical", _identical),
    ("parts at", _parts_at),
    ("lead there", _lead),
    ("KL", _divergence),
    ("right, paired", _right),
    ("faults", _faults),
    ("tokens", _length),
    ("ties", _ties),
)
