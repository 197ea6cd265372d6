"""Every chart, drawn from comparisons of all kinds: what it shows, what it says is missing."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
import warnings

import matplotlib
import numpy as np
import pytest

from evalkit import plugins
from evalkit.errors import EvalkitError, UsageError
from evalkit.records import Comparison, Variant
from evalkit.view.charts import chart_names, draw, in_report_order
from evalkit.view.charts.canvas import Chart, image, write
from tests.view import charted

FULL = charted.full()
CHARTS = chart_names("comparison")
KINDS = {
    "full": FULL,
    "one variant": charted.with_rows(FULL, FULL.rows[0]),
    "all failed but one": charted.failed(FULL, 1, 2),
    "a failed row": charted.failed(FULL, 1),
    "failed baseline": charted.failed(FULL, 0),
    "all failed": charted.failed(FULL, 0, 1, 2),
    "no speed": charted.without(FULL, "decode_tokens_per_second", "prefill_tokens_per_second"),
    "zero width": charted.full(width=0),
    "long names": charted.many(12),
}
# Charts that say nothing of a baseline alone.
BESIDE_THE_BASELINE = {
    "tradeoff", "tradeoff_memory", "flips", "divergence", "divergence_bytes", "slices",
}  # fmt: skip
# What each chart cannot be drawn without, in the words of its error.
LACKING = {
    "one variant": BESIDE_THE_BASELINE,
    "all failed but one": BESIDE_THE_BASELINE,
    "all failed": set(CHARTS),
    "no speed": {"tradeoff", "latency"},
}


def drawn(name: str, comparison: Comparison) -> Chart:
    """The chart laid out once, so that warnings and errors of drawing show."""
    figure = draw(name, comparison, charted.raw_values(comparison))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize(("kind", "name"), list(itertools.product(KINDS, CHARTS)))
def test_is_drawn_or_says_in_one_line_what_was_not_measured(kind: str, name: str):
    comparison = KINDS[kind]
    if name in LACKING.get(kind, ()):
        with pytest.raises(EvalkitError, match=r"^not measured: [^\n]+; [^\n]+$"):
            draw(name, comparison, charted.raw_values(comparison))
        return
    figure = drawn(name, comparison)
    assert comparison.baseline in words(figure)
    assert figure.description.endswith(".")
    assert all(text_boxes_apart(axes) for axes in figure.axes)


def test_names_are_listed_and_a_wrong_one_gets_a_suggestion():
    assert in_report_order("comparison") == [
        "tradeoff", "tradeoff_memory", "divergence_bytes", "tasks", "flips", "divergence",
        "position", "slices", "memory", "latency",
    ]  # fmt: skip
    assert chart_names("run") == []
    with pytest.raises(UsageError, match="did you mean 'tradeoff'"):
        draw("tradeof", FULL)


def test_listing_charts_imports_no_matplotlib() -> None:
    code = (
        "import sys; from evalkit.view.charts import KINDS, chart_names;"
        "assert all(chart_names(kind) for kind in KINDS); assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_chart_that_is_not_declared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "function", lambda *_: charted.full)
    with pytest.raises(EvalkitError, match=r"^chart 'mine' is not declared: decorate"):
        draw("mine", FULL)


def test_a_failed_variant_is_named_with_its_reason():
    assert (
        "Not shown: int8 LLM.int8() (out of memory)."
        in drawn("tradeoff", KINDS["a failed row"]).description
    )


def test_speed_of_another_machine_is_not_drawn():
    row = FULL.rows[1]
    speed = dataclasses.replace(row.metrics["decode_tokens_per_second"], verdict="not comparable")
    other = dataclasses.replace(row, metrics={**row.metrics, "decode_tokens_per_second": speed})
    figure = drawn("tradeoff", charted.with_rows(FULL, FULL.rows[0], other, FULL.rows[2]))
    assert "Not shown: int8 LLM.int8() (not measured)." in figure.description


def test_perplexity_stands_in_where_no_task_was_measured():
    bare = charted.without(FULL, "tasks_mean")
    figure = drawn("tradeoff", bare)
    assert figure.description.startswith("Perplexity added against decode speed.")
    delta, value = FULL.rows[2].metrics["perplexity"].delta, FULL.rows[2].metrics["perplexity"]
    percent = 100 * delta / (value.value - delta)
    assert f"+ {percent:.2f} %" in figure.description


def test_loss_of_tasks_is_in_percentage_points_with_its_interval_turned():
    figure = drawn("tradeoff_memory", FULL)
    value = FULL.rows[2].metrics["tasks_mean"]
    expected = [-100 * value.delta_high, -100 * value.delta_low]
    spans = [
        sorted(segment[:, 1])
        for collection in figure.axes[0].collections
        for segment in collection.get_segments()
    ]
    assert any(np.allclose(span, expected) for span in spans)


def test_flips_show_both_directions_and_zero():
    details = {"right_to_wrong": 0, "wrong_to_right": 0, "mcnemar_p": 1.0}
    rows = [
        dataclasses.replace(
            row,
            metrics={
                key: dataclasses.replace(value, value=0.0, details=details)
                if key.endswith(".flips")
                else value
                for key, value in row.metrics.items()
            },
        )
        for row in FULL.rows
    ]
    none = drawn("flips", charted.with_rows(FULL, *rows))
    assert "int8 LLM.int8(): 0 right to wrong, 0 wrong to right" in none.description
    shown = [text.get_text() for text in none.axes[0].texts]
    assert shown.count("0") == 16
    assert not any(text.startswith("p ") for text in shown)
    widths = [bar.get_width() for bar in drawn("flips", FULL).axes[0].patches]
    lost = FULL.rows[2].metrics["demo_where.flips"].details["right_to_wrong"]
    assert -lost in widths and all(width != 0 for width in widths[:4])


def test_many_tasks_are_cut_to_the_largest_differences_and_say_so():
    figure = drawn("tasks", KINDS["long names"])
    assert "6 of 20 tasks: those with the largest differences." in figure.description
    assert figure.get_figheight() < 22


def test_perplexity_scores_are_not_drawn_as_shares():
    rows = [
        dataclasses.replace(
            row, metrics={**row.metrics, "wikitext.word_perplexity": row.metrics["perplexity"]}
        )
        for row in FULL.rows
    ]
    figure = drawn("tasks", charted.with_rows(FULL, *rows))
    assert not any("wikitext" in label for label in tick_labels(figure))


def test_a_group_of_tasks_is_drawn_by_its_tasks_and_their_primary_scores():
    metrics = [
        {
            "mmlu_law.acc": row.metrics["demo_where.acc"],
            "mmlu_law.acc_norm": row.metrics["demo_price.acc"],
            "gsm8k.exact_match": row.metrics["demo_price.acc"],
            "gsm8k.exact_match.flexible_extract": row.metrics["demo_price.acc"],
        }
        for row in FULL.rows
    ]
    rows = [dataclasses.replace(r, metrics=m) for r, m in zip(FULL.rows, metrics, strict=True)]
    group = charted.with_rows(FULL, *rows)
    assert tick_labels(drawn("tasks", group)) == ["mmlu_law\nacc_norm", "gsm8k\nexact_match"]
    named = dataclasses.replace(group, noise_floor={"mmlu_law.acc": 0.001})
    assert tick_labels(drawn("tasks", named))[0] == "mmlu_law\nacc"


def test_divergence_has_the_noise_floor_and_works_without_raw_values():
    assert tick_labels(draw("divergence", FULL)) == [
        "int8 LLM.int8()", "int4 GPTQ g128", "noise floor",
    ]  # fmt: skip
    bare = dataclasses.replace(FULL, noise_floor={})
    assert "Noise floor: not measured." in drawn("divergence", bare).description


def test_a_divergence_of_zero_is_drawn_at_the_edge():
    row = FULL.rows[1]
    metrics = {
        key: dataclasses.replace(value, value=0.0, low=0.0, high=0.0)
        if key.startswith("kl_")
        else value
        for key, value in row.metrics.items()
    }
    same = charted.with_rows(FULL, FULL.rows[0], dataclasses.replace(row, metrics=metrics))
    assert drawn("divergence", same).axes[0].get_xlim()[0] > 0


def test_memory_draws_the_limit_of_the_card_only_where_it_is_near():
    near = drawn("memory", charted.on_card(FULL))
    assert "Dashed: GeForce RTX 4090: 25.8 GB." in near.description
    far = drawn("memory", charted.on_card(FULL, scale=1.0))
    assert "GeForce RTX 4090: 25.8 GB, far beyond the axis." in far.description
    assert "RTX" not in drawn("memory", FULL).description


def test_memory_stacks_the_categories_up_to_the_size():
    bars = drawn("memory", FULL).axes[0].patches
    size = FULL.rows[2].metrics["weight_bytes"].value / 1e6
    peak = FULL.rows[2].metrics["peak_memory_bytes"].value / 1e6
    ends = [bar.get_x() + bar.get_width() for bar in bars]
    assert np.isclose(ends, size).any() and np.isclose(ends, peak).any()


def test_latency_shows_every_sample_in_milliseconds_and_names_the_unsteady():
    figure = drawn("latency", FULL)
    lines = figure.axes[0].get_lines()
    speed = FULL.rows[0].metrics["decode_tokens_per_second"].value
    assert np.isclose(sorted(lines[0].get_xdata())[1], 1000 / speed / 1.01, rtol=0.02)
    assert len(lines[0].get_xdata()) == 5
    assert "measure again: int8 LLM.int8() (decode), int8 LLM.int8() (prefill)." in (
        figure.description
    )


def test_names_with_symbols_are_text_not_formulas(tmp_path):
    odd = Variant("checkpoint", "checkpoint", checkpoint="m$x^2$_\\frac{日本}")
    comparison = charted.full((FULL.rows[0].variant, odd))
    drawn("slices", comparison)
    svg = write(draw("tradeoff", comparison), tmp_path / "tradeoff.svg").read_text()
    assert "m$x^2$_\\frac{□□}" in svg


def test_long_names_stay_different():
    figure = drawn("memory", KINDS["long names"])
    names = tick_labels(figure)
    assert len(set(names)) == 12 and all(len(name) <= 30 for name in names)
    assert names[1].startswith("…0-Instruct")


def test_the_style_of_the_caller_is_neither_used_nor_changed():
    with matplotlib.rc_context({"figure.facecolor": "red", "font.size": 30}):
        figure = drawn("tradeoff", FULL)
        assert matplotlib.rcParams["font.size"] == 30
    assert matplotlib.colors.to_hex(figure.get_facecolor()) == "#fffffe"


def test_is_written_in_the_form_its_suffix_names(tmp_path):
    figure = draw("memory", FULL)
    assert write(figure, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert figure._repr_png_().startswith(b"\x89PNG")
    written = write(draw("memory", FULL), tmp_path / "a.svg").read_bytes()
    assert written == image(draw("memory", FULL), "svg")
    with pytest.raises(EvalkitError, match=r"a.bmp: a chart is written as .svg, .png or .pdf"):
        write(figure, tmp_path / "a.bmp")
    with pytest.raises(EvalkitError, match="cannot write"):
        write(figure, tmp_path / "none" / "a.png")


def test_drawing_opens_no_figure_window_and_needs_no_torch():
    code = (
        "import sys; from evalkit.view.charts import draw; from tests.view import charted;"
        "draw('tradeoff', charted.full()); import matplotlib.pyplot as plt;"
        "assert not plt.get_fignums(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def words(figure: Chart) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def tick_labels(figure: Chart) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def text_boxes_apart(axes) -> bool:
    """Whether no two labels of an axis, nor title and notes, cover each other."""
    for labels in (axes.get_xticklabels(), axes.get_yticklabels(), axes.figure.texts):
        boxes = [text.get_window_extent() for text in labels if text.get_text()]
        inside = [box.shrunk(0.98, 0.9) for box in boxes if box.width and box.height]
        if any(one.overlaps(two) for one, two in itertools.combinations(inside, 2)):
            return False
    return True
