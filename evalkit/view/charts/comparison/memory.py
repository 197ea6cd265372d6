"""What the weights are made of and what comes on top, against the memory of a card."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from evalkit import numbers
from evalkit.analysis.cards import Card, card_of_driver
from evalkit.records import Comparison
from evalkit.view.charts.canvas import (
    HEIGHT,
    Chart,
    Tables,
    canvas,
    chart,
    finish,
    legend,
    not_measured,
)
from evalkit.view.charts.variants import (
    INK,
    MUTED,
    PAPER,
    Entry,
    drawable,
    entries,
    left_out,
    measured,
)

WEIGHTS, PEAK = "weight_bytes", "peak_memory_bytes"
# Category, its colour and hatch; light and dark alternate so that neighbours differ in grey.
CATEGORIES = {
    "packed": ("#0173b2", ""),
    "linear": ("#56b4e9", "//"),
    "scales": ("#d55e00", ""),
    "zeros": ("#de8f05", "||"),
    "group_index": ("#ca9161", "xx"),
    "codebook": ("#cc78bc", "\\\\"),
    "embedding": ("#029e73", ""),
    "head": ("#7fc8a9", "--"),
    "norm": ("#fbafe4", "\\\\"),
    "bias": ("#de8f05", "////"),
    "other": ("#949494", "++"),
}
ABOVE = "above the weights"
# Parts below this share of the longest bar are narrower than the lines between parts.
SMALLEST_SHARE = 0.008


@chart(place=80)
def memory(comparison: Comparison, tables: Tables, card: Card | None = None) -> Chart:
    """Bytes of the weights by category, and the peak above them, against the card's memory.

    Without `card` the one the comparison was measured on is the limit. Raises EvalkitError where
    no variant's size was measured.
    """
    known = entries(comparison)
    shown = measured(known, WEIGHTS)
    if not shown:
        raise not_measured("size of the weights", "compare variants that can be loaded")
    card = card or _card(comparison)
    most = max(max(sum(parts(entry).values()), _peak(entry)) for entry in shown)
    scale, unit = next(
        (s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes")) if most >= s
    )
    figure, (axes,) = canvas(
        comparison,
        "Memory: what the weights are made of, and the peak",
        height=max(HEIGHT, 2.4 + 0.42 * len(shown)),
    )
    for place, entry in enumerate(shown):
        _stack(axes, entry, place, scale, SMALLEST_SHARE * most)
    axes.set_yticks(range(len(shown)), [entry.name for entry in shown])
    axes.tick_params("y", length=0)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel(f"memory, {unit} (left is better)")
    axes.set_xlim(0, 1.4 * most / scale)
    axes.grid(True, axis="x")
    notes = [
        "One measurement each. On top of the weights: what loading, one prefill or a short decode"
        " takes beside them (KV cache, activations, overhead), whichever is most.",
        _limit(axes, card, most, scale),
        left_out(known, shown),
    ]
    legend(axes, _handles(shown, SMALLEST_SHARE * most))
    said = [f"{e.name}: weights {numbers.byte_size(_weights(e))}" for e in shown]
    return finish(figure, notes, f"{'; '.join(said)}.")


def parts(entry: Entry) -> dict[str, float]:
    """Bytes of a variant's weights by category; what no category names is "other"."""
    details = entry.row.metrics[WEIGHTS].details
    found = {name: float(details[name]) for name in CATEGORIES if details.get(name)}
    rest = _weights(entry) - sum(found.values())
    if rest >= 1:
        found["other"] = found.get("other", 0.0) + rest
    return found


def drawn_parts(entry: Entry, least: float) -> dict[str, float]:
    """The parts of at least `least` bytes; the others, too narrow to be seen, are "other"."""
    found = parts(entry)
    large = {name: size for name, size in found.items() if size >= least and name != "other"}
    rest = sum(found.values()) - sum(large.values())
    return large | ({"other": rest} if rest >= 1 else {})


def _stack(axes: Axes, entry: Entry, place: int, scale: float, least: float) -> None:
    left = 0.0
    for name, size in drawn_parts(entry, least).items():
        colour, hatch = CATEGORIES[name]
        axes.barh(place, size / scale, 0.7, left / scale, color=colour, hatch=hatch,
                  edgecolor=PAPER, linewidth=0)  # fmt: skip
        left += size
    text = numbers.byte_size(left)
    above = _peak(entry) - left
    if above > 0:
        axes.barh(place, above / scale, 0.7, left / scale, color="none", edgecolor=MUTED,
                  hatch="////", linewidth=1)  # fmt: skip
        text = f"{text}, peak {numbers.byte_size(left + above)}"
    end = max(left, left + above)
    # On paper of its own, so that the card's limit does not run through it.
    axes.annotate(
        text,
        (end / scale, place),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=10,
        zorder=4,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},
    )


def _limit(axes: Axes, card: Card | None, most: float, scale: float) -> str:
    if card is None:
        return ""
    limit = f"{drawable(card.title)}: {numbers.byte_size(card.memory)}"
    if most < 0.05 * card.memory:
        return f"{limit}, far beyond the axis."
    axes.axvline(card.memory / scale, color=INK, linewidth=2, linestyle="--")
    axes.annotate(
        drawable(card.title),
        (card.memory / scale, 1),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="center",
        fontsize=10,
    )
    return f"Dashed: {limit}."


def _handles(shown: Sequence[Entry], least: float) -> list[Patch]:
    drawn = [drawn_parts(entry, least) for entry in shown]
    used = [name for name in CATEGORIES if any(known.get(name, 0.0) >= least for known in drawn)]
    handles = [
        Patch(
            facecolor=CATEGORIES[name][0],
            hatch=CATEGORIES[name][1],
            edgecolor=PAPER,
            label=name.replace("_", " "),
        )
        for name in used
    ]
    if any(_peak(entry) > _weights(entry) for entry in shown):
        handles.append(Patch(facecolor="none", hatch="////", edgecolor=MUTED, label=ABOVE))
    return handles


def _weights(entry: Entry) -> float:
    return entry.row.metrics[WEIGHTS].value or 0.0


def _peak(entry: Entry) -> float:
    value = entry.row.metrics.get(PEAK)
    return value.value or 0.0 if value is not None else 0.0


def _card(comparison: Comparison) -> Card | None:
    environment = comparison.environment
    if environment is None or environment.device == "cpu":
        return None
    return card_of_driver(environment.machine)
