"""How long answers stay the baseline's: the share that is still the same after so many tokens."""

from __future__ import annotations

from matplotlib.lines import Line2D

from evalkit.numbers import percent
from evalkit.records.answers import Answers, AnswersRow
from evalkit.view.answers import heading
from evalkit.view.charts.canvas import Chart, chart, finish, legend, not_measured, page, titled
from evalkit.view.charts.variants import drawable, looks_of


@chart(place=10)
def survival(answers: Answers) -> Chart:
    """Share of answers that have the baseline's tokens, over the number of tokens.

    Bands are 95 % intervals over prompts. Raises EvalkitError where no other variant answered.
    """
    rows = [row for row in answers.rows if row.survival]
    if not rows:
        raise not_measured("no other variant answered", "name two variants, such as fp16 int4")
    figure, (axes,) = page(heading(answers), "Answers that are still the baseline's")
    handles = []
    known = looks_of(row.label for row in rows)
    for row in rows:
        look = known[row.label]
        tokens, shares = zip(*[(0, 1.0), *((n, one.value) for n, one in row.survival)], strict=True)
        axes.step(tokens, shares, where="post", linewidth=2, **look)
        low, high = zip(*_bounds(row), strict=True)
        axes.fill_between(tokens[1:], low, high, step="post", color=look["color"], alpha=0.12)
        handles.append(Line2D([], [], label=drawable(row.label), linewidth=2, **look))
    axes.set_ylim(0, 1.02)
    axes.grid(True)
    titled(axes, "", "tokens of the answer", "share of answers, all tokens the same")
    legend(axes, handles)
    said = [f"{row.label}: {percent(row.survival[-1][1].value)}" for row in rows]
    floor = answers.noise_floor
    noise = (
        f"The baseline against itself: {percent(1 - floor.forked.value)} are the same with"
        f" {floor.batch}."
        if floor
        else ""
    )
    return finish(figure, ["Bands: 95 % intervals over prompts.", noise], f"{'; '.join(said)}.")


def _bounds(row: AnswersRow) -> list[tuple[float, float]]:
    """The interval of each share, no wider than itself where there is none."""
    return [
        (one.value if one.low is None else one.low, one.value if one.high is None else one.high)
        for _, one in row.survival
    ]
