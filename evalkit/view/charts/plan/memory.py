"""A plan as a chart: what is in memory against the card, and decode speed over the batch."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from evalkit import numbers
from evalkit.analysis.planner import Plan, PlanRow
from evalkit.analysis.roofline import decode_expected
from evalkit.view.charts.canvas import HEIGHT, Chart, chart, finish, legend, not_measured, page
from evalkit.view.charts.canvas import titled as name_panel
from evalkit.view.charts.variants import (
    INK,
    PAPER,
    PLACE_COLOURS,
    PLACE_LINES,
    PLACE_MARKERS,
    drawable,
    shortened,
)
from evalkit.view.plan import heading

# Colour and hatch of each part, from seaborn's colour-blind palette as the other charts have them.
PARTS = {
    "packed": ("#0173b2", ""),
    "scales and zeros": ("#d55e00", ""),
    "16 or 32 bit": ("#56b4e9", "//"),
    "KV cache": ("#029e73", "--"),
    "activations": ("#cc78bc", "\\\\"),
    "runtime": ("#949494", "++"),
}


@chart(place=10)
def memory(plan: Plan) -> Chart:
    """Memory of each variant by part against the card's, and tokens/s to expect over the batch.

    A line of the right panel ends at the largest batch that fits. Raises EvalkitError where no
    variant could be planned.
    """
    if not plan.rows:
        raise not_measured("every variant was refused", "plan fp16 or int8")
    height = max(HEIGHT, 2.6 + 0.42 * len(plan.rows))
    figure, (left, right) = page(heading(plan), "Plan: what fits and how fast", columns=2,
                                 height=height)  # fmt: skip
    _memory(left, plan)
    _speed(right, plan)
    used = [name for name in PARTS if any(parts(row)[name] for row in plan.rows)]
    legend(right, [*right.get_lines(), *(_patch(name) for name in used)])
    notes = [
        f"Dashed: memory of the {drawable(plan.card.title)}, "
        f"{numbers.byte_size(plan.card.memory)}.",
        "Speed is the stated fraction of the bandwidth roofline, all sequences together, with the"
        " KV cache read behind a full context; lines end at the largest batch that fits.",
        _refused(plan),
    ]
    said = [f"{drawable(row.variant)} {numbers.byte_size(row.memory.total)}" for row in plan.rows]
    return finish(figure, notes, f"{'; '.join(said)}.")


def parts(row: PlanRow) -> dict[str, float]:
    """Bytes of a row by part, in the order they are drawn."""
    used, weights = row.memory, row.memory.weights
    sizes = (
        weights.packed, weights.scales + weights.zeros, weights.rest, used.kv_cache,
        used.activations, used.runtime,
    )  # fmt: skip
    return dict(zip(PARTS, sizes, strict=True))


def batches(row: PlanRow) -> list[int]:
    """Powers of two up to the largest batch that fits, and that one."""
    powers = [2**k for k in range(row.max_batch.bit_length())]
    return sorted({*powers, row.max_batch}) if row.max_batch else []


def _memory(axes: Axes, plan: Plan) -> None:
    most = max(plan.card.memory, *(row.memory.total for row in plan.rows))
    for place, row in enumerate(plan.rows):
        left = 0.0
        for name, size in parts(row).items():
            colour, hatch = PARTS[name]
            axes.barh(place, size / 1e9, 0.7, left / 1e9, color=colour, hatch=hatch,
                      edgecolor=PAPER, linewidth=0.5)  # fmt: skip
            left += size
    axes.axvline(plan.card.memory / 1e9, color=INK, linewidth=2, linestyle="--")
    names = shortened(row.variant for row in plan.rows)
    axes.set_yticks(range(len(plan.rows)), [names[row.variant] for row in plan.rows])
    axes.tick_params("y", length=0)
    axes.set_ylim(len(plan.rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.05 * most / 1e9)
    axes.grid(True, axis="x")
    name_panel(axes, f"batch {plan.batch}, context {plan.context}", "memory, GB (left is better)")


def _speed(axes: Axes, plan: Plan) -> None:
    names = shortened(row.variant for row in plan.rows)
    for place, row in enumerate(plan.rows):
        at = batches(row)
        rates = [decode_expected(plan.shape, row.scheme, plan.card, n, plan.context) for n in at]
        colour = PLACE_COLOURS[place % len(PLACE_COLOURS)]
        axes.plot(at, rates, color=colour, marker=PLACE_MARKERS[place % len(PLACE_MARKERS)],
                  linestyle=PLACE_LINES[place % len(PLACE_LINES)], linewidth=2,
                  label=names[row.variant] + ("" if at else ": does not fit"))  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(bottom=0)
    axes.grid(True)
    name_panel(axes, "decode to expect", "sequences at once", "tokens/s (up is better)")


def _patch(name: str) -> Patch:
    colour, hatch = PARTS[name]
    return Patch(facecolor=colour, hatch=hatch, edgecolor=PAPER, label=name)


def _refused(plan: Plan) -> str:
    names = [drawable(name) for name, _ in plan.refused]
    return f"Not shown: {', '.join(names)} (cannot be made of this model)." if names else ""
