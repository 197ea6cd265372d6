"""The HTML report, one file without network; its wording stands in templates/report.html.

Everything from models and data is escaped. The template has no inline script but its own, which
the content security policy names by hash: whatever a model or a task writes, a browser runs none
of it and fetches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from evalkit.numbers import clean
from evalkit.paths import called
from evalkit.records import Comparison, Flip
from evalkit.records.sensitivity import Sensitivity
from evalkit.results.flips import ledger
from evalkit.results.load_measured import reopen
from evalkit.store.store import Store
from evalkit.view.cells import main_grid, margin_text, slice_grid
from evalkit.view.charts.canvas import Tables
from evalkit.view.comparison import header_pieces, remarks
from evalkit.view.decomposition import TITLE as DECOMPOSITION
from evalkit.view.decomposition import decomposition_grid
from evalkit.view.equal_bytes import TITLE as EQUAL_BYTES
from evalkit.view.equal_bytes import equal_bytes_grid
from evalkit.view.pages import asset, script_hash, templates
from evalkit.view.report_charts import inline_charts, map_charts
from evalkit.view.report_flips import MOST_FLIPS, flip_section
from evalkit.view.report_tables import finding, numbers_table, tasks_table

# Name, unit and definition of a metric.
Definition = tuple[str, str, str]


def stored_report(
    comparison: Comparison,
    definitions: Sequence[Definition] = (),
    store: str | Path | None = None,
) -> str:
    """The report of a comparison with the raw values and flips that its store holds.

    `store` is where they lie if the comparison does not say; for `definitions` see `render_html`.
    """
    kept = Store(comparison.store or store)
    flips, count = ledger(comparison, kept, most=MOST_FLIPS)
    return render_html(
        comparison,
        reopen(comparison, kept),
        flips,
        flip_count=count,
        definitions=definitions,
        command=comparison.command,
        maps=_maps(comparison, kept),
    )


def render_html(
    comparison: Comparison,
    tables: Tables | None = None,
    flips: Sequence[Flip] = (),
    *,
    flip_count: int | None = None,
    definitions: Sequence[Definition] = (),
    command: str = "",
    maps: Sequence[Sensitivity] = (),
) -> str:
    """The report of a comparison as one self-contained HTML document.

    Args:
        comparison: what to report.
        tables: raw values by label of the variant, for the charts that need them.
        flips: task items whose answer changed; beyond a limit they are drawn evenly from all
            variants, tasks and directions, and the report says so.
        flip_count: how many there are, where `flips` are not all.
        definitions: of metrics, as (name, unit, definition); those that were measured are shown.
        command: the exact words that repeat the comparison, empty where they are not known.
        maps: damage maps of its variants, shown behind the other charts.
    """
    charts, missing = inline_charts(comparison, tables or {})
    return _template().render(
        title=clean(called(comparison.model.name)),
        sentence=clean(comparison.sentence)
        or f"Comparison of {clean(called(comparison.model.name))}",
        header=header_pieces(comparison),
        main=main_grid(comparison),
        slices=slice_grid(comparison),
        equal_bytes=equal_bytes_grid(comparison),
        equal_bytes_title=EQUAL_BYTES,
        decomposition=decomposition_grid(comparison),
        decomposition_title=DECOMPOSITION,
        tasks=tasks_table(comparison),
        numbers=numbers_table(comparison),
        charts=[*charts, *map_charts(maps)],
        missing=missing,
        flips=flip_section(comparison, flips, flip_count),
        remarks=remarks(comparison),
        environment=comparison.environment,
        command=command,
        definitions=_measured(comparison, definitions),
        margin=margin_text(comparison),
        **_assets(),
    )


def _maps(comparison: Comparison, store: Store) -> list[Sensitivity]:
    """The stored damage maps of the comparison's variants."""
    labels = {row.variant.label for row in comparison.rows}
    identity = comparison.model.identity
    return [
        one for one in store.sensitivities() if one.identity == identity and one.variant in labels
    ]


def _measured(comparison: Comparison, definitions: Sequence[Definition]) -> list[Definition]:
    known = {name for row in comparison.rows for name in row.metrics}
    return [definition for definition in definitions if definition[0] in known]


@cache
def _template() -> Template:
    return templates(finding=finding).get_template("report.html")


@cache
def _assets() -> dict[str, Any]:
    script = asset("report.js")
    return {
        "script": Markup(script),
        "script_hash": script_hash(script),
        "style": Markup(asset("report.css")),
    }
