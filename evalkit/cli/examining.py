"""evalkit doctor, evalkit check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evalkit.cli.options import OneVariant, Store, StoredComparison, takes
from evalkit.options import DoctorOptions


@takes(DoctorOptions)
def doctor(
    variant: OneVariant,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Findings as one JSON object.")] = False,
    **options: Any,
) -> None:
    """Find a broken quantization in seconds: what, why it matters, what to do."""
    from evalkit import api
    from evalkit.view import diagnosis

    found = api.doctor(variant, **options)
    print(diagnosis.dumps(found) if json_ else diagnosis.diagnosis_text(found))
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
    out: Store = None,
) -> None:
    """Pass only when the whole interval of every limit is inside; exit code 1 otherwise."""
    from evalkit import api
    from evalkit.store.files import explained
    from evalkit.view import gate

    found = api.check(run, limits, store=out, **context.obj)
    if junit is not None:
        with explained(junit):
            junit.write_text(gate.junit(found), encoding="utf-8")
    print(gate.gate_text(found))
    raise typer.Exit(0 if all(one.passed for one in found) else 1)
