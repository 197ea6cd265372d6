"""The variants of a comparison as charts draw them: names that fit, colours, markers, hatches.

Colours are those of seaborn's colour-blind palette that stand out from white and from black; a
marker, a hatch and a line style go with each, so that the charts can be read in grey. The ink,
paper and grid colours occur nowhere else: the report replaces them by those of the reader's theme.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import seaborn
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from evalkit import numbers
from evalkit.paths import called_words
from evalkit.records import Comparison, Row, Value
from evalkit.view.cells import baseline_row, label

INK, MUTED, GRID, PAPER = "#1f2329", "#656d77", "#d8dee5", "#fffffe"
GREYED = "#9aa2ab"
LONGEST_NAME = 30
FONT = "DejaVu Sans"
_COLOURS = tuple(seaborn.color_palette("colorblind").as_hex()[i] for i in (0, 1, 2, 3, 4, 9, 5))
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "h", "*", "p")
# Of lines only: a dot is a circle of its own, and makes an SVG ten times as long.
_HATCHES = ("//", "\\\\", "xx", "--", "||", "++", "////", "\\\\\\\\", "xxxx", "/-", "\\|")
_LINES = ("--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)))

# Benches and plans have no baseline: their variants are told apart by place alone.
PLACE_COLOURS = (INK, "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161")
PLACE_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PLACE_LINES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Look:
    """How a variant is drawn in every chart of a comparison."""

    colour: str
    marker: str
    hatch: str
    line: Any


@dataclass(frozen=True)
class Entry:
    """A row of the comparison with its name fit for a chart and its look."""

    row: Row
    name: str
    look: Look
    is_baseline: bool


def entries(comparison: Comparison) -> list[Entry]:
    """Every row with its name and look; the look depends only on the row's place."""
    base = baseline_row(comparison)
    found = []
    names = _unique([drawable(label(row)) for row in comparison.rows])
    place = 0
    for row, name in zip(comparison.rows, names, strict=True):
        if row is base:
            found.append(Entry(row, name, Look(INK, "o", "", "-"), True))
            continue
        look = Look(
            _COLOURS[place % len(_COLOURS)],
            _MARKERS[place % len(_MARKERS)],
            _HATCHES[place % len(_HATCHES)],
            _LINES[place % len(_LINES)],
        )
        found.append(Entry(row, name, look, False))
        place += 1
    return found


def measured(found: Iterable[Entry], metric: str) -> list[Entry]:
    """The entries without failure that have a value of `metric` which may be compared."""
    return [
        entry
        for entry in found
        if entry.row.status == "ok"
        and metric in entry.row.metrics
        and entry.row.metrics[metric].value is not None
        and entry.row.metrics[metric].verdict != "not comparable"
    ]


def left_out(found: Sequence[Entry], shown: Iterable[Entry]) -> str:
    """A note naming the variants that are not drawn, with the reason; empty where all are."""
    names = {entry.name for entry in shown}
    missing = [
        f"{entry.name} ({'not measured' if entry.row.status == 'ok' else _status(entry.row)})"
        for entry in found
        if entry.name not in names
    ]
    return f"Not shown: {', '.join(missing)}." if missing else ""


def marker_handle(entry: Entry, extra: str = "", colour: str = "", line: bool = False) -> Line2D:
    """A legend entry with the variant's marker, and its line where `line`."""
    return Line2D(
        [],
        [],
        color=colour or entry.look.colour,
        marker=cast(Any, entry.look.marker),
        linestyle=entry.look.line if line else "none",
        markersize=8,
        label=f"{entry.name}{extra}",
    )


def bar_handle(entry: Entry) -> Patch:
    """A legend entry with the variant's colour and hatch."""
    return Patch(
        facecolor=entry.look.colour, edgecolor=PAPER, hatch=entry.look.hatch, label=entry.name
    )


def drawable(text: str) -> str:
    """`text` on one line, with a box for each character that the charts' font does not have."""
    font = _font()
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in numbers.clean(text))


def looks_of(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each of `names`, by the place where it first occurs."""
    return {
        name: {
            "color": PLACE_COLOURS[place % len(PLACE_COLOURS)],
            "marker": PLACE_MARKERS[place % len(PLACE_MARKERS)],
            "linestyle": PLACE_LINES[place % len(PLACE_LINES)],
        }
        for place, name in enumerate(dict.fromkeys(names))
    }


def shortened(names: Iterable[str]) -> dict[str, str]:
    """Each name as charts show it: drawable, no longer than LONGEST_NAME, all different."""
    known = list(dict.fromkeys(names))
    names = [drawable(called_words(name)) for name in known]
    return dict(zip(known, _unique(names), strict=True))


def bounds(value: Value) -> tuple[float, float] | None:
    """The interval of a value, or None where it is not known."""
    return None if value.low is None or value.high is None else (value.low, value.high)


@functools.cache
def _font() -> Any:
    return get_font(findfont(FONT))


def _status(row: Row) -> str:
    return {"running": "interrupted"}.get(row.status, row.status.replace("_", " "))


def _unique(names: Sequence[str]) -> list[str]:
    """The names, shorter where they are long, all different.

    What all long names begin with says nothing, so that goes first; then the middle.
    """
    long = [name for name in names if len(name) > LONGEST_NAME]
    start = _common_start(long) if len(long) > 1 else ""
    found: list[str] = []
    for name in names:
        short = name
        if len(name) > LONGEST_NAME:
            rest = f"…{name[len(start) :]}" if len(start) > 1 else name
            head, tail = LONGEST_NAME // 2 - 1, LONGEST_NAME // 2
            short = rest if len(rest) <= LONGEST_NAME else f"{rest[:head]}…{rest[-tail:]}"
        tries, count = short, 1
        while tries in found:
            count += 1
            tries = f"{short} ({count})"
        found.append(tries)
    return found


def _common_start(names: Sequence[str]) -> str:
    for place, characters in enumerate(zip(*names, strict=False)):
        if len(set(characters)) > 1:
            return names[0][:place]
    return min(names, key=len)
