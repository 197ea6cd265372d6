"""evalkit sensitivity."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from evalkit.cli.options import Form, TableOrJson, takes
from evalkit.options import SensitivityOptions


@takes(SensitivityOptions)
def sensitivity(
    variants: Annotated[
        list[str],
        typer.Argument(
            metavar="VARIANT…",
            help="int4, int8@torchao, …, or a directory of the same architecture.",
        ),
    ],
    format_: TableOrJson = Form.table,
    **options: Any,
) -> None:
    """Map the damage: the divergence that each layer or module of a variant alone causes."""
    from evalkit import api
    from evalkit.view import show
    from evalkit.view.sensitivity import Maps

    found = [api.sensitivity(variant, **options) for variant in variants]
    show(found[0] if len(found) == 1 else Maps(tuple(found)), format_)
