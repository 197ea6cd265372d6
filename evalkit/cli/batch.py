"""evalkit batch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evalkit.cli.options import Form, TableOrJson, takes
from evalkit.options import BatchOptions


@takes(BatchOptions)
def batch(
    grid: Annotated[
        Path,
        typer.Argument(
            metavar="GRID.yaml",
            help="notebook, grid (lists of values), parameters, include, exclude.",
        ),
    ],
    format_: TableOrJson = Form.table,
    **options: Any,
) -> None:
    """Run a notebook through papermill for each combination of a grid's parameters."""
    from evalkit import api
    from evalkit.view import show

    done = api.batch(grid, **options)
    show(done, format_)
    raise typer.Exit(0 if done.succeeded else 1)
