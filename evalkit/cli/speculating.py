"""evalkit speculate."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from evalkit.cli.options import Form, TableOrJson, takes
from evalkit.options import SpeculateOptions


@takes(SpeculateOptions)
def speculate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The variant to speed up: fp16.")],
    drafts: Annotated[
        list[str] | None, typer.Argument(metavar="DRAFT…", help="Variants that draft: int4.")
    ] = None,
    format_: TableOrJson = Form.table,
    **options: Any,
) -> None:
    """Measure speculative decoding: accepted tokens, speed-up, losslessness, and the prediction."""
    from evalkit import api
    from evalkit.view import show
    from evalkit.view.speculation import Speculations

    found = api.speculate(target, *(drafts or ()), **options)
    show(Speculations(found), format_)
    wanted = len(drafts or ()) + options["prompt_lookup"]
    raise typer.Exit(0 if len(found) == wanted else 1)
