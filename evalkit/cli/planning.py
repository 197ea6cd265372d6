"""evalkit plan."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from evalkit.cli.options import Variants, takes
from evalkit.options import PlanOptions


class PlanFormat(enum.StrEnum):
    """Output formats of a plan."""

    table = "table"
    json = "json"
    markdown = "markdown"


@takes(PlanOptions)
def plan(
    variants: Variants,
    format_: Annotated[
        PlanFormat, typer.Option("--format", help="Form of the result.")
    ] = PlanFormat.table,
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw it: .svg, .png or .pdf.")
    ] = None,
    **options: Any,
) -> None:
    """Predict memory and speed of variants on a GPU before anything is loaded."""
    from evalkit import api
    from evalkit.view import show

    found = api.plan(*variants, **options)
    if chart is not None:
        from evalkit.view.charts import draw
        from evalkit.view.charts.canvas import write as write_chart

        write_chart(draw("memory", found), chart)
    show(found, format_)
    if format_ is not PlanFormat.table:
        for name, why in found.refused:
            print(f"evalkit: {name}: {why}", file=sys.stderr)
    raise typer.Exit(1 if found.refused else 0)
