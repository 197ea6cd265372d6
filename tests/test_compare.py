"""`evalkit compare` end to end on a tiny Llama: rows, JSON, resuming, failures as data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import documents, make_llama

import evalkit
from evalkit import cli
from evalkit.progress import ignore
from evalkit.running.compare import run as running
from evalkit.view import render


class Bench:
    """A model, a text and a store that the tests of this file share."""

    def __init__(self, root: Path) -> None:
        self.model = make_llama(root / "model")
        self.text = root / "test.txt"
        self.text.write_text(documents(1000, 12))
        self.other = root / "other.txt"
        self.other.write_text(documents(2000, 6))
        self.store = root / "store"

    def compare(self, *variants: str, **words: Any) -> dict[str, Any]:
        words = {"model": str(self.model), "text": [self.text], "out": self.store} | words
        words |= {"convention": "document", "context": 64, "device": "cpu", "progress": ignore}
        return json.loads(render(evalkit.compare(*variants, **words), "json"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def result(bench: Bench) -> dict[str, Any]:
    return bench.compare("fp32", "fp16", "int8", "int4@gptq", "int4@bitsandbytes")


def test_every_variant_is_a_row_and_failure_is_data(result: dict[str, Any]) -> None:
    assert result["schema"] == "evalkit.comparison/1"
    statuses = {row["variant"]: row["status"] for row in result["rows"]}
    assert statuses == {
        "fp32": "ok", "fp16": "ok", "int8": "ok", "int4@gptq": "failed", "int4@bitsandbytes": "ok",
    }  # fmt: skip
    refused = result["rows"][3]
    assert refused["resolved"] == "int4@gptq,group_size=128"
    assert "group" in refused["message"] or "pack" in refused["message"]
    assert refused["metrics"] == {}


def test_every_measured_row_has_the_documented_metrics(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        if row["status"] != "ok":
            continue
        names = {"perplexity", "weight_bytes", "bits_per_weight", "peak_memory_bytes"}
        names |= {"prefill_tokens_per_second", "decode_tokens_per_second", "load_seconds"}
        if row["variant"] != "fp32":
            names |= {"kl_divergence_mean", "kl_divergence_p99", "top1_agreement"}
            names |= {"delta_p_rms", "total_variation"}
        assert names <= set(row["metrics"])
        assert row["kernel"]
        perplexity = row["metrics"]["perplexity"]
        assert perplexity["low"] < perplexity["value"] < perplexity["high"]


def test_damage_grows_with_fewer_bits(result: dict[str, Any]) -> None:
    kl = {
        row["variant"]: row["metrics"]["kl_divergence_mean"]["value"]
        for row in result["rows"][1:]
        if row["status"] == "ok"
    }
    assert 0 < kl["fp16"] < kl["int8"] < kl["int4@bitsandbytes"]
    sizes = [
        row["metrics"]["weight_bytes"]["value"] for row in result["rows"] if row["status"] == "ok"
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_fp16_does_no_harm_and_the_sentence_says_what_to_do(result: dict[str, Any]) -> None:
    assert result["rows"][1]["verdict"]["word"] == "no loss"
    assert result["sentence"].endswith(".")
    assert result["noise_floor"]["perplexity"] >= 0


def test_nothing_is_measured_twice(
    bench: Bench, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a process was started for finished work")

    monkeypatch.setattr(running, "run_child", refuse)
    again = bench.compare("fp32", "fp16", "int8", "int4@gptq", "int4@bitsandbytes")
    assert again["rows"] == result["rows"]


def test_a_renamed_model_is_the_same_model(
    bench: Bench, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    link = tmp_path / "elsewhere"
    link.symlink_to(bench.model)
    monkeypatch.setattr(running, "run_child", None)
    again = bench.compare("fp32", "fp16", model=str(link))
    assert again["rows"][1]["metrics"] == result["rows"][1]["metrics"]


def test_another_baseline_measures_only_what_refers_to_it(
    bench: Bench, result: dict[str, Any]
) -> None:
    other = bench.compare("fp32", "fp16", baseline="fp16")
    assert [row["variant"] for row in other["rows"]] == ["fp16", "fp32"]
    assert other["rows"][0]["verdict"]["word"] == "baseline"
    speed = "decode_tokens_per_second"
    mine = {row["variant"]: row["metrics"][speed]["value"] for row in result["rows"][:2]}
    theirs = {row["variant"]: row["metrics"][speed]["value"] for row in other["rows"]}
    assert mine == theirs


def test_a_baseline_against_itself_shows_no_difference(bench: Bench) -> None:
    rows = bench.compare("fp32", "fp32")["rows"]
    assert rows[1]["verdict"]["word"] == "no loss"
    for name, value in rows[1]["metrics"].items():
        assert value["verdict"] == "no loss", name
    assert rows[1]["metrics"]["perplexity"]["delta"] == 0
    assert rows[1]["metrics"]["kl_divergence_mean"]["value"] < 1e-9


def test_several_texts_are_slices(bench: Bench) -> None:
    rows = bench.compare("fp32", "int8", text=[bench.text, bench.other])["rows"]
    assert set(rows[1]["slices"]) == {"test", "other"}
    counts = [rows[1]["slices"][name]["perplexity"]["n"] for name in ("test", "other")]
    assert sum(counts) == rows[1]["metrics"]["perplexity"]["n"]


def test_a_baseline_that_cannot_be_made_leaves_speed_and_size(bench: Bench) -> None:
    rows = bench.compare("int4@gptq", "fp32")["rows"]
    assert [row["status"] for row in rows] == ["failed", "failed"]
    assert "the baseline int4@gptq failed" in rows[1]["message"]
    assert rows[1]["metrics"]["weight_bytes"]["value"] > 0


def test_the_command_prints_json_and_its_exit_code_says_what_failed(
    bench: Bench, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "fp32", "fp16", "int4@gptq", "--model", str(bench.model)]
    words += ["--text", str(bench.text), "--convention", "document", "--context", "64"]
    words += ["--out", str(bench.store), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--format", "json"])
    assert ended.value.code == 1
    assert json.loads(capsys.readouterr().out)["rows"][1]["verdict"]["word"] == "no loss"
    for form, start in (("markdown", "**"), ("csv", "variant,"), ("table", "")):
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--format", form])
        assert ended.value.code == 1
        assert capsys.readouterr().out.startswith(start)
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--dry-run"])
    out = capsys.readouterr().out
    assert ended.value.code == 1
    assert "12 windows" in out and "int4@gptq,group_size=128" in out and "cannot run" in out
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--dry-run", "--format", "json"])
    assert ended.value.code == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["schema"] == "evalkit.dry_run/1" and printed["rows"][2]["message"]


def test_results_open_without_torch(bench: Bench, result: dict[str, Any]) -> None:
    code = (
        "import sys, evalkit\n"
        f"comparison = evalkit.load_comparison(store={str(bench.store)!r})\n"
        f"run = evalkit.load_run(comparison.rows[0].runs[0], store={str(bench.store)!r})\n"
        "assert run.status == 'ok' and run.measurement('weight_bytes').values\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fresh_measures_again(bench: Bench, result: dict[str, Any]) -> None:
    store = bench.store
    before = {file: file.stat().st_mtime_ns for file in (store / "runs").glob("*.json")}
    bench.compare("fp32", fresh=True)
    after = {file: file.stat().st_mtime_ns for file in (store / "runs").glob("*.json")}
    assert sum(before[file] != after[file] for file in before) == 3


def test_random_weights_measure_speed_and_memory_and_no_quality(tmp_path: Path) -> None:
    model = make_llama(tmp_path / "model")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((model / "config.json").read_text())
    words = {"model": str(tmp_path / "bare"), "out": tmp_path / "store", "progress": ignore}
    result = evalkit.compare("fp32", "int4@bitsandbytes", weights="random", **words)
    for row in result.rows:
        assert row.status == "ok", row.message
        assert row.verdict.text == "not measured: random weights"
        assert "perplexity" not in row.metrics
        assert row.metrics["decode_tokens_per_second"].value > 0
    assert result.sentence == "Quality: not measured: random weights."
    assert result.command.endswith(f"--out {tmp_path / 'store'} --weights random")
    with pytest.raises(evalkit.EvalkitError, match="leave out --text"):
        evalkit.compare("fp32", weights="random", text=["a.txt"], **words)
    with pytest.raises(evalkit.EvalkitError, match="did you mean 'random'"):
        evalkit.compare("fp32", weights="randm", **words)
