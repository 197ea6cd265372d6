"""What charts hid or blew up, each fault once: one long interval, a missing variant, a spike."""

from __future__ import annotations

import dataclasses

import numpy as np

from evalkit.records import Variant
from evalkit.view.charts import draw
from tests.view import charted
from tests.view.benched import bench
from tests.view.comparisons import FP16

FULL = charted.full()
TABLES = charted.raw_values(FULL)


def test_one_long_interval_does_not_flatten_all_other_points() -> None:
    one = bench()
    fastest = max(point.tokens_per_second or 0.0 for point in one.points if point.phase == "decode")
    points = tuple(dataclasses.replace(point, high=50 * fastest) for point in one.points)
    for name, panel in (("batches", 0), ("contexts", 1)):
        figure = draw(name, dataclasses.replace(one, points=points))
        assert figure.axes[panel].get_ylim()[1] < 2 * fastest


def test_a_variant_without_a_soak_is_named_and_the_others_keep_their_colours() -> None:
    one = bench()
    last = draw("soak", dataclasses.replace(one, soaks=one.soaks[1:]))
    assert "Not shown: fp16 (sustained load not measured)." in last.description
    assert "int8@torchao: speed fell by 10.0 %, 1200 tok/s at first" in last.description
    every = draw("soak", one)
    colours = [line.get_color() for line in every.axes[0].get_lines()[2:4]]
    assert last.axes[0].get_lines()[0].get_color() in colours


def test_scores_close_to_one_another_have_an_axis_that_shows_them() -> None:
    low, high = draw("tasks", FULL, TABLES).axes[0].get_xlim()
    assert low > 40
    assert high <= 100.5


def test_tokens_at_rounding_are_counted_and_make_no_spike() -> None:
    table = TABLES["int8"].tokens
    assert table is not None
    kl = np.array(table.tokens("kl"), dtype=np.float64)
    kl[: len(kl) // 4] = 0.0
    flat = dataclasses.replace(
        table, tokens=lambda name: kl if name == "kl" else table.tokens(name)
    )
    tables = {**TABLES, "int8": dataclasses.replace(TABLES["int8"], tokens=flat)}
    figure = draw("divergence", FULL, tables)
    assert "(tokens that the shapes leave out: int8 LLM.int8() 25.0 %" in figure.description
    ridge = figure.axes[0].get_lines()[0]
    assert ridge.get_xdata()[0] > 2e-9


def test_parts_too_narrow_to_be_seen_are_not_in_the_legend_of_memory() -> None:
    rows = list(FULL.rows)
    value = rows[1].metrics["weight_bytes"]
    details = {**value.details, "norm": 10.0, "bias": 5.0}
    metrics = {**rows[1].metrics, "weight_bytes": dataclasses.replace(value, details=details)}
    rows[1] = dataclasses.replace(rows[1], metrics=metrics)
    legend = draw("memory", dataclasses.replace(FULL, rows=tuple(rows))).axes[0].get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert not {"norm", "bias"} & set(names)


def test_the_note_on_grey_stands_only_where_something_is_grey() -> None:
    for width, said in ((1.0, False), (0.0, True)):
        figure = draw("tradeoff", charted.full(width=width))
        has_grey = "(dominated)" in str([t.get_text() for t in figure.axes[0].get_legend().texts])
        assert ("Greyed:" in figure.description) == has_grey
        assert said or not has_grey or width


def test_a_path_in_an_option_stands_whole_in_no_chart() -> None:
    path = "/a/very/long/way/to/text.txt"
    asked = f"int4@gptq,calibration={path}"
    made = Variant("int4", "gptq", (("calibration", path),), asked=asked)
    one = charted.full((FP16, made))
    for name in ("tradeoff", "tasks", "flips"):
        assert "/a/very" not in draw(name, one, {}).description
    assert (
        "/a/very"
        not in draw("batches", bench(("fp16", asked))).axes[1].get_legend().texts[1].get_text()
    )
