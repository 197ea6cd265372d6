from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from typing import Any

from comparisons import FP16, INT4, INT8, comparison, row, standard_rows

from evalkit.records import Comparison, Value
from evalkit.view import render

FAILED = row(INT4, 2.0, status="failed", message="down_proj is 172 | wide", metrics={}, kernel="")


def as_json(one: Comparison) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(render(one, "json"))
    return content


def to_csv(one: Comparison) -> str:
    return render(one, "csv")


def to_markdown(one: Comparison) -> str:
    return render(one, "markdown")


def test_json_has_the_documented_keys() -> None:
    content = as_json(comparison(*standard_rows(), FAILED))
    assert content["schema"] == "evalkit.comparison/1"
    assert {"schema", "model", "suite", "baseline", "rows", "environment", "runs"} <= set(content)
    assert content["baseline"] == "fp16"
    assert content["runs"] == ["run-fp16", "run-int8", "run-int4"]
    assert content["model"]["name"] == "Phi-3 Small demo"
    assert content["suite"]["id"] == comparison().suite.id
    first, second, _, failed = content["rows"]
    for key in ("variant", "resolved", "status", "message", "kernel", "metrics"):
        assert key in first
    assert (second["variant"], second["resolved"]) == ("int8", "int8@bitsandbytes")
    assert second["metrics"]["perplexity"] == {
        "value": 3.694 + 0.0123,
        "unit": "perplexity",
        "n": 60312,
        "low": 3.6,
        "high": 3.9,
        "delta": 0.0123,
        "delta_low": 0.0123 * 0.8,
        "delta_high": 0.0123 * 1.2,
        "verdict": "no loss",
        "details": {},
        "claim": "",
        "direction": "none",
    }
    assert second["verdict"] == {
        "word": "no loss",
        "metric": "",
        "claim": "",
        "evidence": [],
        "is_beyond_margin": False,
        "items_needed": None,
        "judged": [],
    }
    assert first["metrics"]["weight_bytes"]["details"] == {"p50": 9.64e6}
    assert failed["status"] == "failed"
    assert failed["message"] == "down_proj is 172 | wide"
    assert failed["metrics"] == {}


def test_json_carries_the_texts_one_by_one() -> None:
    rows = [dataclasses.replace(r, slices={"a": r.metrics, "b": {}}) for r in standard_rows()]
    content = as_json(comparison(*rows))
    assert content["rows"][1]["slices"]["a"] == content["rows"][1]["metrics"]
    assert content["rows"][1]["slices"]["b"] == {}


def test_json_is_strict() -> None:
    bad = Value(
        math.inf, "x", 1, -math.inf, math.nan, details={"p50": math.nan, "deep": [math.inf]}
    )
    one = comparison(row(FP16, metrics={"perplexity": bad}), noise_floor={"x": math.nan})

    def refuse(word: str) -> None:
        raise AssertionError(word)

    content = json.loads(render(one, "json"), parse_constant=refuse)
    value = content["rows"][0]["metrics"]["perplexity"]
    assert (value["value"], value["low"], value["high"]) == (None, None, None)
    assert value["details"] == {"p50": None, "deep": [None]}
    assert content["noise_floor"] == {"x": None}
    assert content["rows"][0]["metrics"]["perplexity"]["n"] == 1


def test_json_survives_text_no_encoding_can_write() -> None:
    one = comparison(row(FP16, message="\ud800 \x1b[31m"))
    assert (
        json.loads(render(one, "json").encode("ascii"))["rows"][0]["message"] == "\ud800 \x1b[31m"
    )


def test_a_variant_that_never_ended_counts_as_interrupted() -> None:
    one = comparison(row(FP16), row(INT8, 2.0, status="running"))
    assert as_json(one)["rows"][1]["status"] == "interrupted"
    assert next(csv.DictReader(io.StringIO(to_csv(one))))["status"] == "ok"
    assert "interrupted" in to_csv(one)


def test_without_environment() -> None:
    assert as_json(comparison(environment=None))["environment"] is None


def test_csv_has_a_line_a_variant_and_metric() -> None:
    metrics = standard_rows()[1].metrics
    sliced = dataclasses.replace(standard_rows()[1], slices={"wiki": {"kl": metrics["perplexity"]}})
    lines = list(csv.DictReader(io.StringIO(to_csv(comparison(row(FP16), sliced, FAILED)))))
    assert len(lines) == len(row(FP16).metrics) + len(metrics) + 1 + 1
    found = next(x for x in lines if x["variant"] == "int8" and x["metric"] == "perplexity")
    assert float(found["delta"]) == 0.0123
    assert found["resolved"] == "int8@bitsandbytes"
    assert found["slice"] == ""
    kl = next(x for x in lines if x["metric"] == "kl_divergence_mean")
    assert kl["delta"] == ""
    assert [x["slice"] for x in lines if x["metric"] == "kl"] == ["wiki"]
    assert lines[-1]["status"] == "failed"
    assert lines[-1]["message"] == "down_proj is 172 | wide"
    assert lines[-1]["metric"] == lines[-1]["value"] == ""


def test_markdown_table_is_rectangular_and_complete() -> None:
    text = to_markdown(comparison(*standard_rows(), FAILED))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "| int8 LLM.int8() | ÷ 1.8 |" in text
    assert "+ 0.012 [0.010, 0.015]" in text
    assert "| failed: down\\_proj is 172 \\| wide |" in text
    assert text.startswith("**Phi-3 Small demo · 4.82 M parameters")
    assert "\n- results: /home/someone/.cache/evalkit\n" in text


def test_markdown_of_several_texts_names_them() -> None:
    rows = [
        dataclasses.replace(r, slices={"a_b": r.metrics, "c": r.metrics}) for r in standard_rows()
    ]
    text = to_markdown(comparison(*rows))
    assert "| **a\\_b** |  |  |  |" in text
    assert text.count("| int8 LLM.int8() |") == 3


def test_markdown_escapes_what_models_say() -> None:
    evil = "<script>a</script> [x](http://y) **b** $c$ | `d`\n# e"
    text = to_markdown(comparison(row(FP16, kernel=evil), sentence=evil))
    assert "<script>" not in text
    assert "](" not in text
    assert "\\*\\*b\\*\\* \\$c\\$ \\| \\`d\\` \\# e" in text
