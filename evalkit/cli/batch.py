"""evalkit batch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evalkit.cli.options import takes
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
    **options: Any,
) -> None:
    """Run a notebook through papermill for each combination of a grid's parameters."""
    from evalkit import api
    from evalkit.view.batch_page import batch_text

    done = api.batch(grid, **options)
    print(batch_text(done))
    raise typer.Exit(0 if done.succeeded else 1)
