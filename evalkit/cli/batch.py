"""evalkit batch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli.options import Form, TableOrJson


def batch(
    grid: Annotated[
        Path,
        typer.Argument(
            metavar="GRID.yaml",
            help="notebook, grid (lists of values), parameters, include, exclude.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: beside the grid, with its name.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Cells at once, as far as memory allows.")] = 1,
    ray: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Run on this Ray cluster; local starts one here."),
    ] = "",
    format_: TableOrJson = Form.table,
) -> None:
    """Run a notebook through papermill for each combination of a grid's parameters."""
    from evalkit import api
    from evalkit.progress import live
    from evalkit.view import show

    with live() as listener:
        done = api.batch(grid, out=out, jobs=jobs, ray=ray, progress=listener)
    show(done, format_)
    raise typer.Exit(0 if done.succeeded else 1)
