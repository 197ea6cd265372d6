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
    run: StoredComparison = None,
    limits: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of limits: max_task_loss: 1pp")
    ] = None,
    max_perplexity_increase: Annotated[str | None, typer.Option(metavar="2%")] = None,
    max_task_loss: Annotated[str | None, typer.Option(metavar="1pp")] = None,
    max_kl: Annotated[str | None, typer.Option(metavar="0.05")] = None,
    min_top1: Annotated[str | None, typer.Option(metavar="97%")] = None,
    max_memory: Annotated[str | None, typer.Option(metavar="8GB")] = None,
    max_size: Annotated[str | None, typer.Option(metavar="5GB")] = None,
    min_decode_speed: Annotated[str | None, typer.Option(metavar="40")] = None,
    min_prefill_speed: Annotated[str | None, typer.Option(metavar="2000")] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write JUnit XML.")
    ] = None,
    out: Store = None,
) -> None:
    """Pass only when the whole interval of every limit is inside; exit code 1 otherwise."""
    from evalkit import api
    from evalkit.store.files import explained
    from evalkit.view import gate

    words = {
        "max_perplexity_increase": max_perplexity_increase, "max_task_loss": max_task_loss,
        "max_kl": max_kl, "min_top1": min_top1, "max_memory": max_memory, "max_size": max_size,
        "min_decode_speed": min_decode_speed, "min_prefill_speed": min_prefill_speed,
    }  # fmt: skip
    given = {name: value for name, value in words.items() if value is not None}
    found = api.check(run, limits, store=out, **given)
    if junit is not None:
        with explained(junit):
            junit.write_text(gate.junit(found), encoding="utf-8")
    print(gate.gate_text(found))
    raise typer.Exit(0 if all(one.passed for one in found) else 1)
