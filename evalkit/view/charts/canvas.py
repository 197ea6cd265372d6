"""What all charts share: figures without global state, their titles and notes."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, ParamSpec

import matplotlib
import seaborn
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evalkit.analysis.compare import Measured
from evalkit.analysis.verdicts import parse_margin
from evalkit.errors import EvalkitError, UsageError
from evalkit.records import Comparison
from evalkit.view.charts.variants import FONT, GRID, INK, MUTED, PAPER, drawable
from evalkit.view.comparison import header_pieces

WIDTH, HEIGHT = 10.0, 5.625
MARGIN = 0.012
STYLE: Any = {
    **seaborn.axes_style("ticks"),
    **seaborn.plotting_context("notebook", font_scale=1.15),
    "font.family": [FONT],
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "hatch.linewidth": 0.9,
    # A name may hold a dollar sign, which is not the beginning of a formula.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "evalkit",
}
# Raw values by the label of their variant, as gathered from the store; empty where there is none.
Tables = Mapping[str, Measured]
Words = ParamSpec("Words")


class Chart(Figure):
    """A figure that notebooks show as an image; `description` says in words what it shows."""

    description: str = ""
    panels_top: float = 1.0

    def _repr_png_(self) -> bytes:
        return image(self, "png")


@dataclass(frozen=True)
class ChartFunction(Generic[Words]):
    """A function that draws a chart; a report shows charts in the order of `place`.

    Drawing is under evalkit's style, whatever the style of the caller is.
    """

    function: Callable[Words, Chart]
    place: int

    def __call__(self, *args: Words.args, **kwargs: Words.kwargs) -> Chart:
        """Draw."""
        with matplotlib.rc_context(STYLE):
            return self.function(*args, **kwargs)


def chart(*, place: int = 100) -> Callable[[Callable[Words, Chart]], ChartFunction[Words]]:
    """Declare the decorated function as a chart."""
    return lambda function: ChartFunction(function, place)


def image(figure: Figure, form: str) -> bytes:
    """The figure as a file of the given form: svg, png, pdf."""
    file = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format=form, dpi=160, metadata=metadata)
    # A reader without the font gets one as wide, so that labels keep their distance.
    fonts = (f"'{FONT}'".encode(), f"'{FONT}', Verdana, sans-serif".encode())
    return file.getvalue().replace(*fonts) if form == "svg" else file.getvalue()


def write(figure: Figure, path: Path) -> Path:
    """Write the figure to `path`; its suffix (.svg, .png, .pdf) names the form.

    Raises UsageError for another suffix, EvalkitError where the file cannot be written.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in ("svg", "png", "pdf"):
        raise UsageError(f"{path.name}: a chart is written as .svg, .png or .pdf; end the name so")
    try:
        path.write_bytes(image(figure, form))
    except OSError as error:
        raise EvalkitError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def not_measured(what: str, fix: str) -> EvalkitError:
    """The error of a chart whose values the comparison does not have."""
    return EvalkitError(f"not measured: {what}; {fix}")


def canvas(
    comparison: Comparison, title: str, *, columns: int = 1, height: float = HEIGHT, **grid: Any
) -> tuple[Chart, list[Axes]]:
    """A figure of slide shape (or taller) about `comparison`; see `page`."""
    return page(header_pieces(comparison), title, columns=columns, height=height, **grid)


def page(
    pieces: Sequence[str], title: str, *, columns: int = 1, height: float = HEIGHT, **grid: Any
) -> tuple[Chart, list[Axes]]:
    """A figure with its title, `pieces` on what it is about, and its panels side by side."""
    figure = Chart(figsize=(WIDTH, height))
    figure.description = f"{title}."
    about = textwrap.wrap(drawable(" · ".join(pieces)), 130)
    top = 1 - 0.1 / height
    figure.text(MARGIN, top, title, fontsize=16, fontweight="bold", va="top")
    top -= 0.34 / height
    figure.text(MARGIN, top, "\n".join(about), fontsize=10, va="top", color=MUTED)
    figure.panels_top = top - 0.19 * len(about) / height
    axes = figure.subplots(1, columns, squeeze=False, **grid)
    return figure, list(axes[0])


def titled(axes: Axes, title: str, x: str, y: str = "") -> None:
    """Name a panel and its axes, with their units."""
    axes.set_title(title, loc="left", fontsize=13)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def finish(figure: Chart, notes: Iterable[str], summary: str = "") -> Chart:
    """Put the notes under the panels; title, `summary` and notes are the description."""
    said = drawable(" ".join(note for note in notes if note))
    lines = textwrap.wrap(said, 132)
    figure.text(MARGIN, 0.08 / figure.get_figheight(), "\n".join(lines), fontsize=9.5, color=MUTED)
    bottom = (0.12 + 0.17 * len(lines)) / figure.get_figheight()
    room = (0.0, bottom, 1.0, figure.panels_top - bottom)
    # Laid out once, here: drawing it again changes nothing and takes half the time.
    ConstrainedLayoutEngine(rect=room, w_pad=0.1, h_pad=0.1).execute(figure)
    figure.set_layout_engine("none")
    figure.description = " ".join(filter(None, (figure.description, drawable(summary), said)))
    return figure


def legend(axes: Axes, handles: Sequence[Artist]) -> None:
    """A legend beside the last panel, where it can cover nothing."""
    axes.legend(
        handles=list(handles),
        loc="upper left",
        bbox_to_anchor=(1.03, 1.0),
        borderaxespad=0.0,
        fontsize=11 if len(handles) <= 10 else 10,
        labelspacing=0.7,
    )


def tolerated(comparison: Comparison, unit: str) -> str:
    """The margin in the unit of an axis: percentage points of a share, else percent."""
    return f"tolerated: {100 * parse_margin(comparison.margin).value:g} {unit}"


def logarithmic(axis: Axis, between: int = 100) -> None:
    """Powers of ten on a logarithmic axis, and 1, 2, 5 where it spans a factor below `between`."""
    low, high = sorted(axis.get_view_interval())
    subs = (1.0, 2.0, 5.0) if high < between * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
    axis.set_minor_formatter(NullFormatter())


def power(value: float) -> str:
    """A number on a logarithmic axis: "10⁻⁷", "2·10⁻⁵", "0.002", "10"."""
    exponent = math.floor(math.log10(value) + 1e-9)
    if -4 < exponent < 4:
        return f"{value:g}"
    digits = f"{value / 10.0**exponent:.3g}"
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digits == "1" else f"{digits}·10{raised}"
