"""Speed over the length of the prompt, prefill and decode."""

from __future__ import annotations

from evalkit.records.bench import Bench
from evalkit.view.bench import heading
from evalkit.view.charts.bench_series import (
    MORE,
    excluded_note,
    intervals_note,
    looks,
    plot_speeds,
    points_by_variant,
    powers_of_two,
    speed_axis,
    speeds_in_words,
    variant_handles,
)
from evalkit.view.charts.canvas import Chart, chart, finish, legend, not_measured, page, titled


@chart(place=20)
def contexts(bench: Bench) -> Chart:
    """Prefill and decode tokens/s at batch 1 over the length of the prompt."""
    prefill = points_by_variant(bench, lambda p: p.phase == "prefill" and p.batch_size == 1)
    decode = points_by_variant(bench, lambda p: p.phase == "decode" and p.batch_size == 1)
    if all(len(points) < 2 for points in decode.values()):
        raise not_measured("more than one prompt length", f"{MORE} --contexts 512,2048")
    figure, panels = page(heading(bench), "Speed over the length of the prompt", columns=2)
    known = looks(bench)
    for axes, shown, title in zip(panels, (prefill, decode), ("prefill", "decode"), strict=True):
        for name, points in shown.items():
            ordered = sorted(points, key=lambda point: point.context)
            plot_speeds(axes, [point.context for point in ordered], ordered, known[name])
        powers_of_two(axes)
        speed_axis(axes, shown)
        titled(axes, title, "tokens of the prompt", "tokens/s at batch 1 (up is better)")
    legend(panels[-1], variant_handles(bench, decode))
    return finish(
        figure, [intervals_note(decode), excluded_note(bench)], speeds_in_words(decode, "context")
    )
