"""evalkit quantize, evalkit data: what is made before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli.options import AllowPickle, Device, RemoteCode, Seed


def quantize(
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="int8, int4@gptq,…")],
    model: Annotated[str, typer.Option("--model", metavar="REF", help="What to quantize.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New directory of the checkpoint.")],
    device: Device = "auto",
    seed: Seed = 0,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    allow_pickle: AllowPickle = False,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Write a quantized checkpoint in its library's standard format."""
    from evalkit import api
    from evalkit.progress import live

    with live() as listener:
        path = api.quantize(
            variant, model=model, out=out, device=device, seed=seed, offline=offline,
            allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, progress=listener,
        )  # fmt: skip
    print(path)


data_app = typer.Typer(no_args_is_help=True, help="Task data for work without a network.")


@data_app.command("pull")
def data_pull(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK…", help="lm-eval tasks or groups.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to hand to --data later.")],
    include_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of your own lm-eval task YAMLs.")
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run the Python that such a YAML names.")
    ] = False,
) -> None:
    """Store the splits of tasks as DIR/tasks/TASK/SPLIT.jsonl with a manifest."""
    from evalkit import api

    for line in api.pull(*tasks, out=out, include_path=include_path, allow_code=allow_code):
        print(line)
