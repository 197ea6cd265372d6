"""Charts of a bench, ordinary and awkward ones: labels, units, samples, nothing overlapping."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from view.benched import bench, with_failures

from evalkit.errors import EvalkitError, UsageError
from evalkit.records.bench import Bench
from evalkit.view.charts import chart_names, draw, in_report_order
from evalkit.view.charts.canvas import Chart, image

LONG = tuple(f"int4@gptq,group_size=128,damp_percent=0.0{i},desc_act=true" for i in range(12))
CHARTS = chart_names("bench")
CASES = {
    "three": bench(),
    "one": bench(("fp16",)),
    "twelve": bench(LONG),
    "hostile": bench(("$x^2$<b>", "\x1b[31mred")),
    "failures": with_failures(bench()),
}


def overlaps(figure: Chart) -> list[tuple[str, str]]:
    """Pairs of y labels that share ink."""
    renderer = figure.canvas.get_renderer()
    found = []
    for axes in figure.axes:
        labels = [text for text in axes.get_yticklabels() if text.get_text()]
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in labels]
        for (name, box), (other, another) in itertools.combinations(boxes, 2):
            if box.shrunk(0.98, 0.9).overlaps(another.shrunk(0.98, 0.9)):
                found.append((name, other))
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_of_every_case(name: str, case: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    one: Bench = CASES[case]
    if name == "soak" and not one.soaks:
        with pytest.raises(EvalkitError, match="--soak"):
            draw(name, one)
        return
    figure = draw(name, one)
    FigureCanvasAgg(figure)
    assert len(image(figure, "svg")) > 5_000
    assert figure.description
    assert all(axes.get_xlabel() for axes in figure.axes)
    assert overlaps(figure) == []


def test_the_knee_is_ringed_at_its_batch() -> None:
    left = draw("batches", bench(("fp16",))).axes[0]
    ring = next(line for line in left.lines if line.get_markersize() == 17)
    assert list(ring.get_xdata()) == [16]


def test_all_points_are_inside_the_axes() -> None:
    for name in ("batches", "contexts", "roofline"):
        for axes in draw(name, bench()).axes:
            low, high = axes.get_ylim()
            for line in axes.lines:
                assert all(low <= float(y) <= high for y in line.get_ydata())


def test_out_of_memory_and_failures_are_said() -> None:
    said = draw("batches", with_failures(bench())).description
    assert "Out of memory: fp16 at batch 32" in said
    assert "Failed: int4, int8@torchao" in said


def test_without_sensors_the_soak_says_so() -> None:
    figure = draw("soak", bench(sensors=False))
    assert len(figure.axes) == 1
    assert "not available" in figure.description


def test_they_are_listed_in_their_order() -> None:
    assert in_report_order("bench") == [
        "batches", "contexts", "steps", "roofline", "bench_memory", "soak",
    ]  # fmt: skip


def test_missing_values_are_one_line() -> None:
    empty = dataclasses.replace(bench(), points=(), memory=(), rates=None)
    for name in CHARTS:
        if name != "soak":
            with pytest.raises(EvalkitError, match="not measured"):
                draw(name, empty)
    with pytest.raises(UsageError, match="did you mean 'batches'"):
        draw("batch", bench())
