"""evalkit doctor, evalkit check."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from evalkit.cli.options import Form, Store, StoredComparison, TableOrJson, takes
from evalkit.options import DoctorOptions


class CheckFormat(enum.StrEnum):
    """Output formats of a check."""

    table = "table"
    json = "json"
    junit = "junit"


@takes(DoctorOptions)
def doctor(
    variant: Annotated[
        str | None,
        typer.Argument(metavar="VARIANT", help="int8, int4@gptq,…; without one: this machine."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    format_: TableOrJson = Form.table,
    **options: Any,
) -> None:
    """Find in seconds what this machine lacks, or what is wrong with a quantized model."""
    from evalkit import api
    from evalkit.view import show

    found = api.doctor(variant, **options)
    show(found, format_)
    raise typer.Exit(0 if found.healthy(strict=strict) else 1)


def check(
    context: typer.Context,
    run: StoredComparison = None,
    limits: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of limits: max_task_loss: 1pp")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write JUnit XML.")
    ] = None,
    format_: Annotated[
        CheckFormat, typer.Option("--format", help="Form of the result.")
    ] = CheckFormat.table,
    out: Store = None,
) -> None:
    """Pass only when the whole interval of every limit is inside; exit code 1 otherwise."""
    from evalkit import api
    from evalkit.store.files import explained
    from evalkit.view import render, show
    from evalkit.view.gate import Judgements

    found = Judgements(tuple(api.check(run, limits, store=out, **context.obj)))
    if junit is not None:
        with explained(junit):
            junit.write_text(render(found, "junit"), encoding="utf-8")
    show(found, format_)
    raise typer.Exit(0 if found.passed else 1)
