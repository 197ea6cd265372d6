"""evalkit bench."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from evalkit.cli.options import (
    AllowPickle,
    Device,
    ModelOption,
    Offload,
    Out,
    RemoteCode,
    Seed,
    Serve,
    Variants,
)


class BenchFormat(enum.StrEnum):
    """Output formats of a bench."""

    table = "table"
    json = "json"
    markdown = "markdown"
    csv = "csv"


def bench(
    variants: Variants,
    model: ModelOption = None,
    batch_sizes: Annotated[
        str, typer.Option(metavar="auto|1,2,4", help="auto doubles until throughput stops growing.")
    ] = "auto",
    prompt: Annotated[
        int, typer.Option(help="Tokens of each prompt; default 512, or what the context allows.")
    ] = 0,
    generate: Annotated[
        int, typer.Option(help="Tokens decoded behind each prompt; default 128, or a quarter.")
    ] = 0,
    contexts: Annotated[
        str, typer.Option(metavar="512,2048", help="Further prompt lengths, at batch 1.")
    ] = "",
    engine: Annotated[
        str, typer.Option(help="eager, graph, compile, or auto: the fastest that runs.")
    ] = "auto",
    rounds: Annotated[int, typer.Option(help="Processes of each variant, in turn.")] = 5,
    repetitions: Annotated[int, typer.Option(help="Repetitions of a point in a round.")] = 3,
    soak: Annotated[
        str, typer.Option(metavar="10m", help="Also decode without a pause, at the knee.")
    ] = "0",
    weights: Annotated[
        str, typer.Option(help="checkpoint, or random: the real size without a download.")
    ] = "checkpoint",
    device: Device = "auto",
    seed: Seed = 0,
    serve: Serve = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    out: Out = None,
    format_: Annotated[
        BenchFormat, typer.Option("--format", help="Form of the result.")
    ] = BenchFormat.table,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure everything again.")] = False,
    offload: Offload = False,
    allow_pickle: AllowPickle = False,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Measure prefill and decode over batch sizes and contexts: speed, memory, energy."""
    from evalkit import api
    from evalkit.progress import live
    from evalkit.view import show

    with live() as listener:
        found = api.bench(
            *variants, model=model, batch_sizes=batch_sizes, prompt=prompt, generate=generate,
            contexts=contexts, engine=engine, rounds=rounds, repetitions=repetitions, soak=soak,
            weights=weights, device=device, seed=seed, offline=offline, out=out, fresh=fresh,
            serve=tuple(serve or ()), offload=offload,
            allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, progress=listener,
        )  # fmt: skip
    show(found, format_)
    raise typer.Exit(1 if any(point.status == "failed" for point in found.points) else 0)
