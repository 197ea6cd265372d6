"""One entry to every form of every result, and the one table that says which forms there are.

A result's module beside this one has its writers. The formats: "table" is plain text for a
terminal; "json" one object, "csv" one line a number, for programs; "markdown" for a pull request;
"html" the page of a comparison or a batch, of other results the element that notebooks show;
"card" the section of a model card; "junit" what continuous integration reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from evalkit.analysis.planner import Plan
from evalkit.errors import EvalkitError, unknown
from evalkit.records import Comparison, Run
from evalkit.records.answers import Answers
from evalkit.records.batch import Batch
from evalkit.records.bench import Bench
from evalkit.records.dry_run import DryRun
from evalkit.records.findings import Diagnosis, MachineReport
from evalkit.records.search import Search
from evalkit.records.sensitivity import Sensitivity
from evalkit.view import (
    answers,
    batch,
    bench,
    comparison,
    diagnosis,
    dry_run,
    flips,
    gate,
    machine,
    plan,
    run,
    search,
    sensitivity,
    speculation,
)
from evalkit.view.flips import Flips
from evalkit.view.gate import Judgements
from evalkit.view.sensitivity import Maps
from evalkit.view.sheet import Sheet, sheet_lines, sheet_markdown, sheet_text
from evalkit.view.speculation import Speculations

FORMATS = ("table", "json", "markdown", "csv", "html", "card", "junit")


@dataclass(frozen=True)
class Renderer:
    """How one kind of result is shown: its sheet, where it has one, and writers by format.

    A sheet gives "table", "markdown" and "html"; a writer of that name takes precedence.
    """

    sheet: Callable[[Any], Sheet] | None = None
    writers: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)

    @property
    def formats(self) -> tuple[str, ...]:
        """The names of its formats."""
        laid_out = ("table", "markdown", "html") if self.sheet else ()
        return tuple(form for form in FORMATS if form in laid_out or form in self.writers)


def _page(record: Comparison) -> str:
    from evalkit.view.report import stored_report  # loads matplotlib and jinja2

    return stored_report(record)


def _answers_page(record: Answers) -> str:
    from evalkit.view.answers_page import render_answers  # loads jinja2

    return render_answers(record)


def _card(record: Comparison) -> str:
    from evalkit.view.report_card import render_model_card

    return render_model_card(record)


_RENDERERS: Mapping[type, Renderer] = {
    Comparison: Renderer(
        comparison.sheet,
        {"json": comparison.to_json, "csv": comparison.to_csv, "html": _page, "card": _card},
    ),
    Bench: Renderer(bench.sheet, {"json": bench.to_json, "csv": bench.to_csv}),
    DryRun: Renderer(dry_run.sheet, {"json": dry_run.to_json}),
    Plan: Renderer(plan.sheet, {"json": plan.to_json}),
    Run: Renderer(run.sheet),
    Answers: Renderer(answers.sheet, {"json": answers.to_json, "html": _answers_page}),
    Diagnosis: Renderer(None, {"table": diagnosis.to_text, "json": diagnosis.to_json}),
    MachineReport: Renderer(None, {"table": machine.to_text, "json": machine.to_json}),
    Judgements: Renderer(
        None, {"table": gate.to_text, "json": gate.to_json, "junit": gate.to_junit}
    ),
    Flips: Renderer(None, {"table": flips.to_text, "json": flips.to_json, "html": flips.to_html}),
    Speculations: Renderer(None, {"table": speculation.to_text, "json": speculation.to_json}),
    Search: Renderer(search.sheet, {"json": search.to_json, "csv": search.to_csv}),
    Sensitivity: Renderer(
        sensitivity.sheet, {"json": sensitivity.to_json, "csv": sensitivity.to_csv}
    ),
    Maps: Renderer(None, {"table": sensitivity.maps_to_text, "json": sensitivity.maps_to_json}),
    Batch: Renderer(None, {"table": batch.to_text, "json": batch.to_json, "html": batch.to_html}),
}


def formats(kind: type) -> tuple[str, ...]:
    """The formats in which results of `kind` are written, "table" first."""
    return _renderer(kind).formats


def check_format(kind: type, form: str) -> None:
    """Raise UsageError where results of `kind` are not written as `form`."""
    if form not in formats(kind):
        raise unknown("format", form, formats(kind))


def render(result: Any, form: str = "table", width: int | None = None) -> str:
    """`result` in the format `form` as text.

    `width` bounds the columns of a table (None: as wide as it is). Raises UsageError for an
    unknown format, EvalkitError for what is no result or holds nothing that the format could say.
    """
    check_format(type(result), form)
    renderer = _renderer(type(result))
    if form in renderer.writers:
        return renderer.writers[form](result)
    if form == "table":
        return sheet_text(sheet_of(result), width)
    if form == "markdown":
        return sheet_markdown(sheet_of(result))
    from evalkit.view.notebook import section  # loads pandas

    return section(sheet_of(result))


def show(result: Any, form: str = "table", console: Console | None = None) -> None:
    """Print `result` on `console` (standard output).

    A terminal gets a table in colour with the columns that fit, a file or pipe all columns.
    """
    if form == "table" and _renderer(type(result)).sheet:
        console = console or Console(highlight=False)
        lines = sheet_lines(sheet_of(result), terminal_width(console))
        console.print(lines, soft_wrap=True)
    else:
        print(render(result, form).rstrip("\n"))


def sheet_of(result: Any) -> Sheet:
    """The sheet of a result; raises EvalkitError for a kind that is not laid out as one."""
    make = _renderer(type(result)).sheet
    if make is None:
        raise EvalkitError(f"{type(result).__name__} has no table of columns")
    return make(result)


def terminal_width(console: Console | None = None) -> int | None:
    """Columns of `console` (standard output), None where that is no terminal."""
    console = console or Console()
    return console.width if console.is_terminal else None


def _renderer(kind: type) -> Renderer:
    if kind not in _RENDERERS:
        known = ", ".join(sorted(one.__name__ for one in _RENDERERS))
        raise EvalkitError(f"{kind.__name__} is no result that can be shown: those are {known}")
    return _RENDERERS[kind]
