"""evalkit speculate."""

from __future__ import annotations

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
    TableOrJson,
)


def speculate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The variant to speed up: fp16.")],
    drafts: Annotated[
        list[str] | None, typer.Argument(metavar="DRAFT…", help="Variants that draft: int4.")
    ] = None,
    model: ModelOption = None,
    draft_tokens: Annotated[int, typer.Option(help="Tokens drafted before each pass.")] = 4,
    prompt_lookup: Annotated[
        bool, typer.Option("--prompt-lookup", help="Also draft from the text itself.")
    ] = False,
    text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE…", help="Where the prompts come from.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="Suite whose texts give the prompts.")
    ] = None,
    prompts: Annotated[int, typer.Option(help="Number of prompts.")] = 8,
    prompt: Annotated[int, typer.Option(help="Tokens of a prompt at most.")] = 128,
    generate: Annotated[int, typer.Option(help="Tokens generated behind each prompt.")] = 64,
    device: Device = "auto",
    seed: Seed = 0,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    out: Out = None,
    format_: TableOrJson = Form.table,
    allow_pickle: AllowPickle = False,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Measure speculative decoding: accepted tokens, speed-up, losslessness, and the prediction."""
    from evalkit import api
    from evalkit.progress import live
    from evalkit.view import show
    from evalkit.view.speculation import Speculations

    with live() as listener:
        found = api.speculate(
            target, *(drafts or ()), model=model, draft_tokens=draft_tokens,
            prompt_lookup=prompt_lookup, text=tuple(text or ()), suite=suite, prompts=prompts,
            prompt=prompt, generate=generate, device=device, seed=seed, offline=offline, out=out,
            allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, progress=listener,
        )  # fmt: skip
    show(Speculations(found), format_)
    wanted = len(drafts or ()) + prompt_lookup
    raise typer.Exit(0 if len(found) == wanted else 1)
