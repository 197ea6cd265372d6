"""One entry to every form of every result: each kind in each of its formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from answered import hostile
from benched import bench
from comparisons import comparison, standard_rows
from plans import planned
from rich.console import Console

import evalkit
from evalkit import cli
from evalkit.analysis.gate import judge, parse_limits
from evalkit.cli.answering import AnswersFormat
from evalkit.cli.bench import BenchFormat
from evalkit.cli.comparing import Format
from evalkit.cli.examining import CheckFormat
from evalkit.cli.options import Form
from evalkit.cli.planning import PlanFormat
from evalkit.errors import EvalkitError, UsageError
from evalkit.metrics import gate_limits
from evalkit.records import Comparison, Flip, Measurement, Model, Run, Suite, Variant
from evalkit.records.batch import Batch, CellResult
from evalkit.records.bench import Bench, Speculation
from evalkit.records.findings import Diagnosis, Finding
from evalkit.store.store import Store
from evalkit.view import check_format, formats, render, show
from evalkit.view.flips import Flips
from evalkit.view.gate import Judgements
from evalkit.view.speculation import Speculations

SCRIPT = "<script>alert(1)</script>\x1b[31m"
FLIP = Flip("t", 1, "int4", "right→wrong", f"Where? {SCRIPT}", ("barn", SCRIPT), "barn",
            (-1.0, -2.0), (float("-inf"), -2.0))  # fmt: skip
LIMITS = parse_limits({"max_size": "1kB", "max_kl": "1000"}, gate_limits())
RESULTS: dict[str, Any] = {
    "comparison": comparison(),
    "bench": bench(),
    "plan": planned(),
    "run": Run(
        "id", Model(f"m{SCRIPT}", "x"), Variant("fp16", "transformers"), Suite("s"), "ok",
        measurements=(
            Measurement("nll", 1, "nats", "lower", (1.0, float("nan"), 4.0), convention="mean"),
            Measurement("kl", 1, "nats", "lower", table="kl.parquet"),
        ),
    ),
    "diagnosis": Diagnosis(
        "int4", "demo", "Linear4bit", ("overflow",),
        (Finding("overflow", "problem", f"it overflows {SCRIPT}", "words are lost", "use bf16"),),
        1.5,
    ),
    "check": Judgements(tuple(judge(comparison(), LIMITS))),
    "flips": Flips((FLIP,)),
    "answers": hostile(),
    "speculation": Speculations((Speculation("fp16", "int4", 4, 0.8, 3.2, 1.5, True, 512),)),
    "batch": Batch(
        "n.ipynb", Path("grid"), (CellResult("a", {"n": 1}, "failed", f"lost {SCRIPT}"),)
    ),
}  # fmt: skip
SCHEMAS = {
    "comparison": "evalkit.comparison/1",
    "bench": "evalkit.bench/1",
    "plan": "evalkit.plan/1",
    "diagnosis": "evalkit.diagnosis/1",
    "check": "evalkit.check/1",
    "speculation": "evalkit.speculation/1",
    "batch": "evalkit.batch/1",
    "answers": "evalkit.answers/1",
}
FORMS = [(kind, form) for kind, one in RESULTS.items() for form in formats(type(one))]


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_every_result_is_written_in_each_of_its_formats(kind: str, form: str) -> None:
    text = render(RESULTS[kind], form)
    assert text
    assert "\x1b" not in text
    if form == "json":
        content = json.loads(text, parse_constant=refuse)
        assert kind not in SCHEMAS or content["schema"] == SCHEMAS[kind]
    if form == "html":
        assert "<script>alert" not in text
        assert "<table" in text
    if form == "junit":
        assert ElementTree.fromstring(text).tag == "testsuite"
    if form == "markdown":
        assert "| --- |" in text


def test_the_formats_of_each_kind() -> None:
    assert {kind: formats(type(one)) for kind, one in RESULTS.items()} == {
        "comparison": ("table", "json", "markdown", "csv", "html", "card"),
        "bench": ("table", "json", "markdown", "csv", "html"),
        "plan": ("table", "json", "markdown", "html"),
        "run": ("table", "markdown", "html"),
        "diagnosis": ("table", "json"),
        "check": ("table", "json", "junit"),
        "flips": ("table", "json", "html"),
        "speculation": ("table", "json"),
        "answers": ("table", "json", "markdown", "html"),
        "batch": ("table", "json", "html"),
    }


def test_an_unknown_format_is_one_line_with_a_guess() -> None:
    with pytest.raises(UsageError, match=r"format 'jsn': allowed are .* did you mean 'json'\?"):
        render(comparison(), "jsn")
    with pytest.raises(UsageError, match="unknown format 'card'"):
        check_format(Bench, "card")
    check_format(Comparison, "card")


def test_what_is_no_result_is_named() -> None:
    with pytest.raises(EvalkitError, match="dict is no result that can be shown: those are An"):
        render({})


@pytest.mark.parametrize(
    ("kind", "offered"),
    [
        ("comparison", Format), ("bench", BenchFormat), ("plan", PlanFormat),
        ("check", CheckFormat), ("flips", Form), ("speculation", Form), ("diagnosis", Form),
        ("batch", Form), ("answers", AnswersFormat),
    ],
)  # fmt: skip
def test_commands_offer_formats_that_there_are(kind: str, offered: type[Any]) -> None:
    assert set(offered) <= set(formats(type(RESULTS[kind])))


@pytest.mark.parametrize("kind", RESULTS)
def test_show_prints_what_render_writes(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("table", *({"json"} & set(formats(type(RESULTS[kind]))))):
        show(RESULTS[kind], form)
        assert capsys.readouterr().out.rstrip("\n") == render(RESULTS[kind], form).rstrip("\n")


@pytest.mark.parametrize("kind", ["comparison", "bench", "plan", "run", "answers"])
def test_print_shows_the_table_and_not_the_record(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(RESULTS[kind]) == render(RESULTS[kind])
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(Console, "is_terminal", True)
    assert str(RESULTS[kind]) == render(RESULTS[kind], width=60)


def test_a_run_has_a_line_a_measurement() -> None:
    lines = render(RESULTS["run"]).splitlines()
    assert lines[3].split() == ["nll", "2.500", "nats", "3", "mean"]
    assert lines[4].split()[:3] == ["kl", "–", "stored"]
    assert lines[-1] == "fp16@transformers: ok"


def test_json_holds_text_that_no_encoding_can_write_and_no_infinity() -> None:
    (flip,) = json.loads(render(RESULTS["flips"], "json"))
    assert flip["variant_loglikelihoods"] == [None, -2.0]
    odd = Diagnosis("int8", "\ud800 − é", "K", (), (), 1.0)
    text = render(odd, "json")
    assert "− é" in text
    assert json.loads(text.encode("utf-8"))["model"] == odd.model


def test_a_long_list_of_flips_says_how_to_see_all() -> None:
    text = render(Flips((FLIP,) * 3, shown=1))
    assert text.endswith("2 more: --limit 3 or --format json shows all")
    assert render(Flips(())) == "no item changed between right and wrong"


def test_check_says_in_json_whether_all_limits_held() -> None:
    content = json.loads(render(RESULTS["check"], "json"))
    assert content["passed"] is False
    assert {one["limit"]: one["passed"] for one in content["judgements"]} == {
        "max_size": False, "max_kl": True,
    }  # fmt: skip


def test_the_check_command_prints_junit_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Store(tmp_path).save_comparison(comparison(*standard_rows()), "one")
    words = ["check", str(file), "--max-size", "1kB", "--junit", str(tmp_path / "junit.xml")]
    for form in ("junit", "json"):
        with pytest.raises(SystemExit) as exit_:
            cli.main([*words, "--format", form])
        assert exit_.value.code == 1
    printed = capsys.readouterr().out
    assert printed.startswith((tmp_path / "junit.xml").read_text(encoding="utf-8"))
    assert json.loads(printed[printed.index("{") :])["passed"] is False


@pytest.mark.parametrize("form", ["table", "json"])
def test_the_flips_command_prints_the_form_asked_for(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalkit.api.flips", lambda *_, **__: [FLIP, FLIP])
    with pytest.raises(SystemExit) as exit_:
        cli.main(["flips", "--limit", "1", "--format", form, "--out", str(tmp_path)])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == render(Flips((FLIP, FLIP), shown=1), form) + "\n"


def test_report_adds_what_the_metrics_mean_and_checks_the_format_first(tmp_path: Path) -> None:
    page = evalkit.report(comparison(), "html", tmp_path)
    assert "KL" in page
    assert len(page) > len(render(comparison(), "html"))
    assert evalkit.report(comparison(), "csv") == render(comparison(), "csv")
    with pytest.raises(UsageError, match="did you mean 'markdown'"):
        evalkit.report(None, "markdwn", tmp_path / "no store")
