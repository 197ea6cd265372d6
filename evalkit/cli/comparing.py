"""evalkit compare."""

from __future__ import annotations

import enum
import sys
from typing import Annotated, Any

import typer

from evalkit.cli.options import Quiet, Variants, takes
from evalkit.options import CompareOptions
from evalkit.progress import ignore


class Format(enum.StrEnum):
    """Output formats of a comparison."""

    table = "table"
    json = "json"
    markdown = "markdown"
    csv = "csv"


@takes(CompareOptions)
def compare(
    variants: Variants,
    format_: Annotated[Format, typer.Option("--format", help="Form of the result.")] = Format.table,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Compare variants of a model: quality, size, memory and speed, each with a verdict."""
    from evalkit import api
    from evalkit.store.files import replacing
    from evalkit.store.mirror import mirrored
    from evalkit.view import show

    if dry_run:
        planned = api.dry_run(*variants, **options)
        show(planned, format_)
        refused = any(row.status == "cannot run" for row in planned.rows)
        raise typer.Exit(1 if refused else 0)
    result = api.compare(*variants, progress=ignore if quiet else None, **options)
    with mirrored(options["out"]) as folder:
        if folder is not None:
            report = folder / "report.html"
            if report.exists() and any(row.status != "ok" for row in result.rows):
                # The one that is there may be whole.
                report = folder / "report-partial.html"
            with replacing(report) as page:
                page.write_text(api.report(result), encoding="utf-8")
            if not quiet:
                print(f"evalkit: report: {report}", file=sys.stderr)
    show(result, format_)
    raise typer.Exit(0 if all(row.status == "ok" for row in result.rows) else 1)
