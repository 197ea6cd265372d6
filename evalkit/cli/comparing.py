"""evalkit compare."""

from __future__ import annotations

import enum
import sys
from typing import Annotated, Any

import typer

from evalkit.cli.options import Variants, takes
from evalkit.options import CompareOptions


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
    **options: Any,
) -> None:
    """Compare variants of a model: quality, size, memory and speed, each with a verdict."""
    from evalkit import api
    from evalkit.store.files import replacing
    from evalkit.store.mirror import mirrored
    from evalkit.view import show

    if dry_run:
        show(api.dry_run(*variants, **options), format_)
        return
    result = api.compare(*variants, **options)
    with mirrored(options["out"]) as folder:
        if folder is not None:
            with replacing(folder / "report.html") as page:
                page.write_text(api.report(result), encoding="utf-8")
            print(f"evalkit: report: {folder / 'report.html'}", file=sys.stderr)
    show(result, format_)
    raise typer.Exit(0 if all(row.status == "ok" for row in result.rows) else 1)
