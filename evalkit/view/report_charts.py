"""The charts of a report as SVG inside the page, in the colours of the reader's theme."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from evalkit.errors import EvalkitError
from evalkit.records import Comparison
from evalkit.records.sensitivity import Sensitivity
from evalkit.view.charts import draw, in_report_order
from evalkit.view.charts.canvas import Chart, Tables, image
from evalkit.view.charts.variants import GRID, INK, MUTED, PAPER

THEME = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--paper)"}
_COLOUR = re.compile("|".join(THEME), re.IGNORECASE)
_NAMED = re.compile(r'(\bid="|href="#|url\(#)')
_TAG = re.compile(r"<[^>]+>")
_PLACE = re.compile(r"-?\d+\.\d{3,}")


@dataclass(frozen=True)
class InlineChart:
    """A chart of a report: its name, what it shows in words, and the SVG element."""

    name: str
    title: str
    svg: Markup


def inline_charts(comparison: Comparison, tables: Tables) -> tuple[list[InlineChart], list[str]]:
    """All charts the comparison has the values for, and one line each for those it has not."""
    found, missing = [], []
    for name in in_report_order("comparison"):
        try:
            figure = draw(name, comparison, tables)
        except EvalkitError as error:
            missing.append(f"{name.replace('_', ' ')}: {error}")
            continue
        title = figure.description.partition(".")[0]
        found.append(InlineChart(name, title, inline_svg(figure, name)))
    return found, missing


def map_charts(maps: Iterable[Sensitivity]) -> list[InlineChart]:
    """The picture of each damage map in which anything causes a divergence."""
    found = []
    for one in maps:
        if any(piece.kl > 0 for piece in one.pieces):
            figure = draw("heat_map", one)
            name = f"heat_map-{one.id}"
            found.append(InlineChart(name, figure.description, inline_svg(figure, name)))
    return found


def inline_svg(figure: Chart, name: str) -> Markup:
    """The figure as an SVG element: ids of its own, the theme's colours, its description."""
    text = image(figure, "svg").decode()
    text = text[text.index("<svg") :]
    text = text.replace('<style type="text/css">*{stroke-linejoin: round; stroke-linecap: butt}'
                        "</style>", "")  # fmt: skip
    start, end = text.index("<metadata>"), text.index("</metadata>") + len("</metadata>")
    box = re.search(r'viewBox="[^"]+"', text[:start])
    assert box is not None
    body = text[:start][text.index(">") + 1 :] + text[end:]
    body = _TAG.sub(lambda tag: _own(tag[0], name), body)
    opening = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        ' {} class="chart" role="img" aria-label="{}">'
    ).format(Markup(box[0]), figure.description)
    return opening + Markup(body.rstrip())


def _own(tag: str, name: str) -> str:
    """A tag with ids and references of this chart, the theme's colours, and shorter numbers.

    A hundredth of a point is finer than any screen.
    """
    tag = _NAMED.sub(rf"\g<1>{name}-", tag)
    tag = _COLOUR.sub(lambda match: THEME[match[0].lower()], tag)
    return _PLACE.sub(lambda match: f"{float(match[0]):.2f}", tag)
