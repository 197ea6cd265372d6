"""The index page of a batch: its cells, how each ended, links to notebook and page."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evalkit.records.batch import Batch
from evalkit.view.numbers import clean


def batch_html(batch: Batch) -> str:
    """One self-contained page; parameters and messages are escaped."""
    environment = Environment(
        loader=PackageLoader("evalkit.view"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["clean"] = clean
    names = list(dict.fromkeys(name for cell in batch.cells for name in cell.parameters))
    style = PackageLoader("evalkit.view").get_source(environment, "report.css")[0]
    return environment.get_template("batch.html").render(
        batch=batch,
        names=names,
        failed=sum(cell.status == "failed" for cell in batch.cells),
        style=Markup(style),
        words=_words,
    )


def batch_text(batch: Batch) -> str:
    """One line a cell and one for the index, for a terminal."""
    lines = [
        f"{cell.status:<6}  {cell.name}  "
        + (f"{cell.seconds:.1f} s" if cell.status == "ok" else clean(cell.message))
        for cell in batch.cells
    ]
    return "\n".join([*lines, f"index: {batch.folder / 'index.html'}"])


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
