"""evalkit answers."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import typer

from evalkit.cli.options import Quiet, Variants, takes
from evalkit.options import AnswersOptions
from evalkit.progress import ignore


class AnswersFormat(enum.StrEnum):
    """Output formats of answers."""

    table = "table"
    json = "json"
    markdown = "markdown"
    html = "html"


@takes(AnswersOptions)
def answers(
    variants: Variants,
    format_: Annotated[
        AnswersFormat, typer.Option("--format", help="Form of the result; html is a page.")
    ] = AnswersFormat.table,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Let every variant answer the same prompts, and show where and how answers part."""
    from evalkit import api
    from evalkit.view import show

    found = api.answers(*variants, progress=ignore if quiet else None, **options)
    show(found, format_)
    raise typer.Exit(1 if any(row.status != "ok" for row in found.rows) else 0)
