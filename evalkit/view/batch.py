"""A batch as text, JSON and its index page: its cells, how each ended, links to notebooks.

The JSON object has the schema "evalkit.batch/1": `notebook`, `folder`, `succeeded`, and in `cells`
the fields of each cell, its `notebook` and `html` relative to the folder.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from evalkit.numbers import clean
from evalkit.records.batch import Batch
from evalkit.view.export import json_text

SCHEMA = "evalkit.batch/1"


def to_text(batch: Batch) -> str:
    """One line a cell and one for the index."""
    lines = [
        f"{cell.status:<6}  {cell.name}  "
        + (f"{cell.seconds:.1f} s" if cell.status == "ok" else clean(cell.message))
        for cell in batch.cells
    ]
    return "\n".join([*lines, f"index: {batch.folder / 'index.html'}"])


def to_json(batch: Batch) -> str:
    """One object (see the module's docstring)."""
    return json_text({
        "schema": SCHEMA,
        "notebook": batch.notebook,
        "folder": str(batch.folder),
        "succeeded": batch.succeeded,
        "cells": [dataclasses.asdict(cell) for cell in batch.cells],
    })  # fmt: skip


def to_html(batch: Batch) -> str:
    """One self-contained page; parameters and messages are escaped."""
    from markupsafe import Markup

    from evalkit.view.pages import asset, templates

    names = list(dict.fromkeys(name for cell in batch.cells for name in cell.parameters))
    return templates().get_template("batch.html").render(
        batch=batch,
        names=names,
        failed=sum(cell.status == "failed" for cell in batch.cells),
        style=Markup(asset("report.css")),
        words=_words,
    )  # fmt: skip


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
