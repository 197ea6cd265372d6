"""Results in notebooks: HTML, styled tables, charts by short names, progress in the cell."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from view.answered import hostile
from view.benched import bench
from view.charted import full
from view.comparisons import comparison, standard_rows

import evalkit
from evalkit.progress import Event, live
from evalkit.records import Flip, Model, Run, Suite, Variant
from evalkit.view.flip_browser import FlipBrowser, flips_html
from evalkit.view.flips import Flips, to_text

SCRIPT = "<script>alert(1)</script>"


def hostile_comparison() -> Any:
    one = comparison(*standard_rows())
    model = dataclasses.replace(one.model, name=f"m{SCRIPT}")
    return dataclasses.replace(one, model=model, sentence=f"Use {SCRIPT}", notes=(SCRIPT,))


def hostile_bench() -> Any:
    one = bench((f"fp16{SCRIPT}",))
    return dataclasses.replace(one, model=Model(SCRIPT, "x"))


RESULTS = {
    "comparison": hostile_comparison(),
    "bench": hostile_bench(),
    "plan": evalkit.plan("fp16", "int8", gpu="rtx-4090"),
    "answers": hostile(),
    "run": Run("id", Model(SCRIPT, "x"), Variant("fp16", "transformers"), Suite(SCRIPT), "ok"),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_html_holds_a_table_and_no_script(kind: str) -> None:
    page = RESULTS[kind]._repr_html_()
    assert "<table" in page
    assert "<script" not in page


def test_the_comparison_begins_with_its_sentence() -> None:
    one = comparison(*standard_rows())
    assert one._repr_html_().index(one.sentence) < one._repr_html_().index("<table")


def test_tables_are_styled_data_frames() -> None:
    frame = comparison(*standard_rows()).table().data
    assert list(frame.columns)[:2] == ["size", "peak"]
    assert frame.index[0] == "fp16"
    assert bench().table().data.shape[0] == len(bench().points)
    assert RESULTS["plan"].table().data.loc["fp16", "weights"] == "14.8 GB"


def test_charts_by_short_names() -> None:
    one = full()
    assert {"tradeoff", "tasks", "divergence"} <= set(dir(one.plot))
    assert one.plot.tasks()._repr_png_().startswith(b"\x89PNG")
    assert bench().plot.batches()._repr_png_().startswith(b"\x89PNG")
    assert RESULTS["plan"].plot.memory()._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(AttributeError, match="did you mean 'tasks'"):
        _ = one.plot.task


def flip(**changes: Any) -> Flip:
    known = Flip("t", 1, "int4", "right→wrong", f"Where? {SCRIPT}", ("barn", SCRIPT), "barn",
                 (-1.0, -2.0), (-3.0, -2.0))  # fmt: skip
    return dataclasses.replace(known, **changes)


def test_flips_are_browsed_by_task_variant_and_direction() -> None:
    flips = [flip(), flip(task="u"), flip(variant="int8"), flip(direction="wrong→right")]
    browser = FlipBrowser(flips)
    assert len(browser.select(task="t", variant="int4", direction="right→wrong")) == 1
    assert "<script" not in browser._repr_html_()
    widget = browser.widget()
    menus, shown = widget.children
    menus.children[0].value = "u"
    assert shown.value.startswith("<p>1 flip;")


def test_an_exported_notebook_keeps_every_kind_of_flip_without_widgets() -> None:
    flips = [flip(), flip(task="u"), flip(variant="int8,calibration=/a/long/path.txt")]
    html = FlipBrowser([*flips, *[flip(item=item) for item in range(2, 90)]])._repr_html_()
    assert not hasattr(FlipBrowser, "_repr_mimebundle_")
    assert "<strong>barn -1.00 → -3.00</strong>" in html
    assert [line.count("int4 · t") for line in html.split("<summary>")] == [0, 1, 0, 0]
    assert "int8,calibration=path.txt · t · right→wrong: 1<" in html
    assert html.count("<details open>") == 1
    assert "39 more: evalkit flips --format json lists all" in html
    assert "No item changed" in flips_html([])


def test_the_right_answer_is_marked_by_its_place_among_the_choices() -> None:
    """lm-eval gives the target as an index, and two choices may be the same word."""
    same = flip(choices=("barn", "barn"), target="1", gold=1)
    assert [same.is_right(place) for place in range(2)] == [False, True]
    assert flips_html([same]).count("<strong>") == 1
    assert to_text(Flips((same,))).count("← right") == 1
    assert [flip().is_right(place) for place in range(2)] == [True, False]


def test_in_a_notebook_one_bar_is_rewritten_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    shown: list[str] = []
    handle = SimpleNamespace(update=lambda html: shown.append(html.data))
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: handle)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    with live() as listener:
        listener(Event("int4", "scoring", 5, 10, "tokens"))
        listener(Event("evalkit", "", message=f"note {SCRIPT}"))
    assert '<progress max="10" value="5">' in shown[0]
    assert "<progress" not in shown[-1]
    assert "note &lt;script&gt;" in shown[-1]


def test_bars_show_stages_that_have_no_count(capsys: pytest.CaptureFixture[str]) -> None:
    with live(show=True) as listener:
        listener(Event("bench", "measuring the machine"))
        listener(Event("int4", "scoring", 500, 1000, "tokens"))
        listener(Event("int4", "loading"))
    assert "Traceback" not in capsys.readouterr().err


def test_a_result_prints_as_its_table_and_its_repr_is_one_line() -> None:
    one = comparison(*standard_rows())
    assert repr(one) == f"<Comparison: {one.sentence}>"
    assert len(repr(bench())) < 300
    assert "verdict at 1 pp" in str(one)


def test_a_cell_of_a_notebook_has_the_colour_of_its_own_metric() -> None:
    name = "decode_tokens_per_second"
    base, fast, *_ = standard_rows()
    slow = dataclasses.replace(fast.metrics[name], verdict="worse", details={"ratio": 0.51})
    rows = (base, dataclasses.replace(fast, metrics={**fast.metrics, name: slow}))
    styled = comparison(*rows).table()._compute()
    colours = {
        styled.data.columns[column]: dict(style).get("color")
        for (line, column), style in styled.ctx.items()
        if line == 1
    }
    assert colours["decode"] == "#b3261e"
    assert colours["size"] == colours["verdict at 1 pp"] == "#1a6e33"


def test_the_numbers_are_a_tidy_frame_and_a_wide_one() -> None:
    base, one, other = standard_rows()
    lost = dataclasses.replace(other, status="failed", metrics={})
    result = comparison(base, one, lost)
    frame = result.frame()
    row = frame[(frame.variant == "int8 LLM.int8()") & (frame.metric == "perplexity")].iloc[0]
    assert (row.unit, row.verdict, row.n) == ("perplexity", "no loss", 60_312)
    assert row.delta_low < row.delta < row.delta_high
    failed = frame[frame.status == "failed"]
    assert len(failed) == 1
    assert failed.value.isna().all()
    wide = result.frame(wide=True)
    assert wide.index.tolist() == ["fp16", "int8 LLM.int8()", "int4 GPTQ g128"]
    assert wide.loc["fp16", "perplexity"] == 3.694
    assert wide.perplexity.isna().tolist() == [False, False, True]


def test_a_mistyped_metric_is_told_with_those_that_are_near() -> None:
    metrics = standard_rows()[0].metrics
    with pytest.raises(KeyError, match="did you mean 'perplexity'"):
        _ = metrics["perplexty"]
    assert metrics.get("perplexty") is None
