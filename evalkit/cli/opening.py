"""evalkit flips, chart, report, list: what is shown of stored results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli.options import Form, Store, StoredComparison, TableOrJson


def flips(
    run: StoredComparison = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    limit: Annotated[int, typer.Option(help="Items shown.")] = 20,
    out: Store = None,
    format_: TableOrJson = Form.table,
) -> None:
    """Show the task items that changed between right and wrong, real damage first."""
    from evalkit import api
    from evalkit.view import show
    from evalkit.view.flips import Flips

    found = api.flips(run, task, store=out)
    show(Flips(tuple(found), limit), format_)


def chart(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A chart.",
        ),
    ],
    run: StoredComparison = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="NAME.svg by default; also .png, .pdf.")
    ] = None,
    out: Store = None,
) -> None:
    """Draw one chart of a stored comparison, bench or damage map."""
    from evalkit import api

    print(api.chart(name, file or Path(f"{name}.svg"), run, store=out))


def report(
    run: StoredComparison = None,
    format_: Annotated[
        str, typer.Option("--format", help="html, table, markdown, json, csv or card.")
    ] = "html",
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write here instead of printing.")
    ] = None,
    out: Store = None,
) -> None:
    """Report a stored comparison: HTML page, table, Markdown, JSON, CSV or model card section."""
    from evalkit import api

    text = api.report(run, format_, store=out)
    if file is None:
        print(text.rstrip("\n"))
    else:
        file.write_text(text, encoding="utf-8")
        print(file)


def list_(
    what: Annotated[
        str, typer.Argument(help="models, backends, metrics, suites, gpus, runs or comparisons.")
    ],
    out: Store = None,
) -> None:
    """List what is known: models, backends, metrics, suites, gpus, runs or comparisons."""
    from evalkit import api

    for line in api.listing(what, out=out):
        print(line)
