"""evalkit quantize, evalkit data: what is made before anything is measured."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from evalkit.cli.options import OneVariant, takes
from evalkit.options import PullOptions, QuantizeOptions


@takes(QuantizeOptions)
def quantize(variant: OneVariant, **options: Any) -> None:
    """Write a quantized checkpoint in its library's standard format."""
    from evalkit import api

    print(api.quantize(variant, **options))


data_app = typer.Typer(no_args_is_help=True, help="Task data for work without a network.")


@data_app.command("pull")
@takes(PullOptions)
def data_pull(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK…", help="lm-eval tasks or groups.")],
    **options: Any,
) -> None:
    """Store the splits of tasks as DIR/tasks/TASK/SPLIT.jsonl with a manifest."""
    from evalkit import api

    for line in api.pull(*tasks, **options):
        print(line)
