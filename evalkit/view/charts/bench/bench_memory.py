"""Peak memory of a bench by its parts."""

from __future__ import annotations

from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from evalkit import numbers
from evalkit.records.bench import Bench, MemoryUse
from evalkit.view.bench import heading
from evalkit.view.charts.canvas import (
    HEIGHT,
    Chart,
    chart,
    finish,
    legend,
    not_measured,
    page,
    titled,
)
from evalkit.view.charts.variants import INK, PAPER, shortened

# Colour and hatch of each part of memory.
PARTS = {
    "weights": ("#0173b2", ""),
    "scales and zeros": ("#d55e00", ""),
    "KV cache": ("#029e73", "--"),
    "activations and overhead": ("#cc78bc", "\\\\"),
}


@chart(place=50)
def bench_memory(bench: Bench) -> Chart:
    """Bytes held at the largest batch and context measured, by part, beside the plan."""
    uses = _largest(bench)
    if not uses:
        raise not_measured("memory", "measure it with evalkit bench")
    height = max(HEIGHT, 2.6 + 0.42 * len(uses))
    figure, (axes,) = page(
        heading(bench), "Memory at the peak of prefill and decode", height=height
    )
    for place, use in enumerate(uses):
        left = 0.0
        for name, size in _parts(use).items():
            colour, hatch = PARTS[name]
            axes.barh(place, size / 1e6, 0.7, left / 1e6, color=colour, hatch=hatch,
                      edgecolor=PAPER, linewidth=0.5)  # fmt: skip
            left += size
        if use.planned:
            axes.plot([use.planned / 1e6] * 2, [place - 0.42, place + 0.42], color=INK, lw=2)
    short = shortened(point.variant for point in bench.points)
    names = [f"{short[u.variant]}\nbatch {u.batch_size}, context {u.context}" for u in uses]
    axes.set_yticks(range(len(uses)), names)
    axes.tick_params("y", length=0)
    axes.set_ylim(len(uses) - 0.4, -0.6)
    axes.grid(True, axis="x")
    titled(axes, "", "memory, MB (left is better)")
    patches = [Patch(facecolor=c, hatch=h, edgecolor=PAPER, label=n) for n, (c, h) in PARTS.items()]
    legend(axes, [*patches, Line2D([], [], color=INK, lw=2, label="planned")])
    said = [f"{use.variant} {numbers.byte_size(_peak(use))}" for use in uses]
    return finish(figure, ["One process each; activations and overhead: peak less the rest."],
                  f"{'; '.join(said)}.")  # fmt: skip


def _largest(bench: Bench) -> list[MemoryUse]:
    """Each variant's use at the largest setting measured."""
    found: dict[str, MemoryUse] = {}
    for use in bench.memory:
        known = found.get(use.variant)
        if known is None or use.batch_size * use.context >= known.batch_size * known.context:
            found[use.variant] = use
    return list(found.values())


def _peak(use: MemoryUse) -> float:
    """The larger peak of prefill and decode, by the first counter of each."""
    phases = dict[str, float]()
    for name, value in use.peaks.items():
        phases.setdefault(name.partition(" ")[0], value)
    found = [phases[phase] for phase in ("prefill", "decode") if phase in phases]
    return max(found, default=sum(use.weights.values()))


def _parts(use: MemoryUse) -> dict[str, float]:
    scales = sum(use.weights.get(name, 0.0) for name in ("scales", "zeros", "group_index"))
    weights = sum(use.weights.values()) - scales
    cache = use.kv_cache or 0.0
    rest = max(0.0, _peak(use) - weights - scales - cache)
    return dict(zip(PARTS, (weights, scales, cache, rest), strict=True))
