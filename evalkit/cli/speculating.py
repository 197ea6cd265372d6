"""evalkit speculate."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import typer

from evalkit.cli.options import takes
from evalkit.options import SpeculateOptions


class SpeculationFormat(enum.StrEnum):
    """Output formats of speculative decoding."""

    table = "table"
    json = "json"


@takes(SpeculateOptions)
def speculate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The variant to speed up: fp16.")],
    drafts: Annotated[
        list[str] | None, typer.Argument(metavar="DRAFT…", help="Variants that draft: int4.")
    ] = None,
    format_: Annotated[
        SpeculationFormat, typer.Option("--format", help="Form of the result.")
    ] = SpeculationFormat.table,
    **options: Any,
) -> None:
    """Measure speculative decoding: accepted tokens, speed-up, losslessness, and the prediction."""
    from evalkit import api
    from evalkit.view import speculation

    found = api.speculate(target, *(drafts or ()), **options)
    as_json = format_ is SpeculationFormat.json
    print(speculation.to_json(found) if as_json else speculation.to_text(found))
    wanted = len(drafts or ()) + options["prompt_lookup"]
    raise typer.Exit(0 if len(found) == wanted else 1)
