"""evalkit bench."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import typer

from evalkit.cli.options import Quiet, Variants, takes
from evalkit.options import BenchOptions
from evalkit.progress import ignore


class BenchFormat(enum.StrEnum):
    """Output formats of a bench."""

    table = "table"
    json = "json"
    markdown = "markdown"
    csv = "csv"


@takes(BenchOptions)
def bench(
    variants: Variants,
    format_: Annotated[
        BenchFormat, typer.Option("--format", help="Form of the result.")
    ] = BenchFormat.table,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Measure prefill and decode over batch sizes and contexts: speed, memory, energy."""
    from evalkit import api
    from evalkit.view import show

    found = api.bench(*variants, progress=ignore if quiet else None, **options)
    show(found, format_)
    raise typer.Exit(1 if any(point.status == "failed" for point in found.points) else 0)
