"""Arguments and options that several commands share."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class Form(enum.StrEnum):
    """Output formats of results without further ones."""

    table = "table"
    json = "json"


TableOrJson = Annotated[Form, typer.Option("--format", help="Form of the result.")]
Variants = Annotated[
    list[str],
    typer.Argument(
        metavar="VARIANT…",
        help="PRECISION[@BACKEND][,key=value…] (fp16, int8, int4@gptq,group_size=64), or the"
        " directory or hub id of a quantized checkpoint. The first is the baseline.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="REF", help="demo, phi-3-small, a hub id or a directory."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Store; default $EVALKIT_HOME or ~/.cache/evalkit."),
]
StoredComparison = Annotated[
    str | None, typer.Argument(metavar="RUN", help="A stored comparison; default the newest.")
]
Seed = Annotated[int, typer.Option(help="Seed of calibration and sampling.")]
Serve = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COMMAND",
        help="Start this server for a served@endpoint variant, and stop it; one for each.",
    ),
]
Offload = Annotated[
    bool,
    typer.Option(
        "--offload", help="Keep what does not fit in main memory or on disk; every row says so."
    ),
]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load pickled weights.")]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code of the checkpoint.")
]
Overlap = Annotated[
    bool,
    typer.Option("--allow-overlap", help="Calibrate on text that overlaps the evaluation text."),
]
