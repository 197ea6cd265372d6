"""evalkit doctor, evalkit check."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli.options import (
    AllowPickle,
    Device,
    Form,
    ModelOption,
    Out,
    RemoteCode,
    Seed,
    StoredComparison,
    TableOrJson,
)


class CheckFormat(enum.StrEnum):
    """Output formats of a check."""

    table = "table"
    json = "json"
    junit = "junit"


def doctor(
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="int8, int4@gptq,…")],
    model: ModelOption = None,
    text: Annotated[
        str | None, typer.Option(metavar="FILE", help="A page of ordinary text to look at.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    out: Out = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    format_: TableOrJson = Form.table,
    allow_pickle: AllowPickle = False,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Find a broken quantization in seconds: what, why it matters, what to do."""
    from evalkit import api
    from evalkit.progress import live
    from evalkit.view import show

    with live() as listener:
        found = api.doctor(
            variant, model=model, text=text, device=device, seed=seed, offline=offline, out=out,
            allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, progress=listener,
        )  # fmt: skip
    show(found, format_)
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
    format_: Annotated[
        CheckFormat, typer.Option("--format", help="Form of the result.")
    ] = CheckFormat.table,
    out: Out = None,
) -> None:
    """Pass only when the whole interval of every limit is inside; exit code 1 otherwise."""
    from evalkit import api
    from evalkit.store.files import explained
    from evalkit.view import render, show
    from evalkit.view.gate import Judgements

    words = {
        "max_perplexity_increase": max_perplexity_increase, "max_task_loss": max_task_loss,
        "max_kl": max_kl, "min_top1": min_top1, "max_memory": max_memory, "max_size": max_size,
        "min_decode_speed": min_decode_speed, "min_prefill_speed": min_prefill_speed,
    }  # fmt: skip
    given = {name: value for name, value in words.items() if value is not None}
    found = Judgements(tuple(api.check(run, limits, store=out, **given)))
    if junit is not None:
        with explained(junit):
            junit.write_text(render(found, "junit"), encoding="utf-8")
    show(found, format_)
    raise typer.Exit(0 if found.passed else 1)
