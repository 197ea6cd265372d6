"""evalkit plan."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli.options import ModelOption, Variants


class PlanFormat(enum.StrEnum):
    """Output formats of a plan."""

    table = "table"
    json = "json"
    markdown = "markdown"


def plan(
    variants: Variants,
    model: ModelOption = None,
    gpu: Annotated[
        str | None, typer.Option(help="A card of `list gpus`; default this machine's own.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of a sequence.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    prefill_chunk: Annotated[
        int, typer.Option(help="Tokens of a prompt pass at most; 0 reads all prompts at once.")
    ] = 0,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    format_: Annotated[
        PlanFormat, typer.Option("--format", help="Form of the result.")
    ] = PlanFormat.table,
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw it: .svg, .png or .pdf.")
    ] = None,
) -> None:
    """Predict memory and speed of variants on a GPU before anything is loaded."""
    from evalkit import api
    from evalkit.view import show

    found = api.plan(
        *variants, model=model, gpu=gpu, context=context, batch=batch,
        prefill_chunk=prefill_chunk, offline=offline,
    )  # fmt: skip
    if chart is not None:
        from evalkit.view.charts.canvas import write as write_chart
        from evalkit.view.charts.plan import plan_chart

        write_chart(plan_chart(found), chart)
    show(found, format_)
    if format_ is not PlanFormat.table:
        for name, why in found.refused:
            print(f"evalkit: {name}: {why}", file=sys.stderr)
    raise typer.Exit(1 if found.refused else 0)
