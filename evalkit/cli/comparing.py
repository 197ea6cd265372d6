"""evalkit compare."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from evalkit.cli.options import (
    AllowPickle,
    Device,
    ModelOption,
    Offload,
    Overlap,
    RemoteCode,
    Seed,
    Serve,
    Variants,
)


class Format(enum.StrEnum):
    """Output formats of a comparison."""

    table = "table"
    json = "json"
    markdown = "markdown"
    csv = "csv"


def compare(
    variants: Variants,
    model: ModelOption = None,
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="demo, quick, standard or full.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE…", help="Text files, JSONL, or hf:NAME[:CONFIG][:SPLIT]."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="A,B", help="lm-eval tasks, groups or YAML files.")
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Few-shot examples of every task.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="First N documents of each text and items of each task.")
    ] = None,
    margin: Annotated[str, typer.Option(help="Tolerated loss: 1pp, 0.5pp, 2%.")] = "1pp",
    convention: Annotated[
        str | None, typer.Option(help="Windows: llama.cpp, gptq, lm-eval or document.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of a window.")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="V", help="Baseline; default the first variant.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="checkpoint, or random: speed and memory without a download.")
    ] = "checkpoint",
    device: Device = "auto",
    seed: Seed = 0,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Task data; default $EVALKIT_DATA.")
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of your own lm-eval task YAMLs.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--apply-chat-template", help="Prompt tasks as chats.")
    ] = False,
    system: Annotated[
        str, typer.Option("--system-instruction", help="System message of chats.")
    ] = "",
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", help="Run code that the model writes or a task YAML names."),
    ] = False,
    serve: Serve = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Store, a directory or s3://…; default $EVALKIT_HOME or ~/.cache/evalkit.",
        ),
    ] = None,
    ray: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Run on this Ray cluster; local starts one here."),
    ] = "",
    format_: Annotated[Format, typer.Option("--format", help="Form of the result.")] = Format.table,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure everything again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a scoring batch; default by device.")
    ] = None,
    offload: Offload = False,
    allow_overlap: Overlap = False,
    allow_pickle: AllowPickle = False,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Compare variants of a model: quality, size, memory and speed, each with a verdict."""
    from evalkit import api
    from evalkit.progress import Event, live
    from evalkit.store.files import replacing
    from evalkit.store.mirror import is_url, mirrored
    from evalkit.view import show

    request: dict[str, Any] = {
        "model": model, "suite": suite, "text": text or (), "tasks": _words(tasks),
        "shots": shots, "limit": limit, "margin": margin, "convention": convention,
        "context": context, "baseline": baseline, "weights": weights, "device": device,
        "seed": seed, "data": data,
        "include_path": include_path, "chat": chat, "system": system, "allow_code": allow_code,
        "serve": tuple(serve or ()), "offline": offline, "fresh": fresh,
        "ray": ray,
        "batch_tokens": batch_tokens, "offload": offload,
        "allow_overlap": allow_overlap, "allow_pickle": allow_pickle,
        "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    with live() as listener, mirrored(out) as folder:
        request |= {"out": folder, "mirror": out if is_url(out) else ""}
        if dry_run:
            print(api.dry_run(*variants, progress=listener, **request))
            return
        result = api.compare(*variants, progress=listener, **request)
        if folder is not None:
            with replacing(folder / "report.html") as page:
                page.write_text(api.report(result), encoding="utf-8")
            listener(Event("evalkit", "", message=f"report: {folder / 'report.html'}"))
    show(result, format_)
    raise typer.Exit(0 if all(row.status == "ok" for row in result.rows) else 1)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip()) if text else ()
