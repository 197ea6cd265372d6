"""evalkit search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evalkit.cli.options import Form, Quiet, TableOrJson, takes
from evalkit.options import SearchOptions
from evalkit.progress import ignore


@takes(SearchOptions)
def search(
    variants: Annotated[
        list[str],
        typer.Argument(
            metavar="VARIANT…",
            help="Formats of one backend to mix (int3@gptq int4@gptq int8@gptq), and the baseline.",
        ),
    ],
    format_: TableOrJson = Form.table,
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw it: .svg, .png or .pdf.")
    ] = None,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Search the best mix of formats under a budget, and judge it on text it never saw."""
    from evalkit import api
    from evalkit.view import show

    found = api.search(*variants, progress=ignore if quiet else None, **options)
    if chart is not None:
        from evalkit.view.charts import draw
        from evalkit.view.charts.canvas import write as write_chart

        write_chart(draw("frontier", found), chart)
    show(found, format_)
    raise typer.Exit(0 if found.is_whole else 1)
