"""A row with a simulated KV cache: its quality and size are measured, its speed and memory not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

import evalkit
from evalkit.analysis.advice import sentence
from evalkit.declaration import resolved
from evalkit.errors import UsageError
from evalkit.options import BenchOptions
from evalkit.progress import ignore
from evalkit.records import Word
from evalkit.running.bench.plan import make_bench_plan
from evalkit.running.compare import run as compare_run
from evalkit.view import render

VARIANTS = ("fp32", "fp32,kv_cache=int8", "fp32,kv_cache=int4")
MEASURED = ("weight_bytes", "perplexity", "kl_divergence_mean")
NOT_MEASURED = ("peak_memory_bytes", "prefill_tokens_per_second", "decode_tokens_per_second")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache")
    (path / "town.txt").write_text(tiny.documents(1, 4), encoding="utf-8")
    tiny.make_llama(path / "model")
    return path


@pytest.fixture(scope="module")
def compared(folder: Path) -> Any:
    def here(task: Callable[..., Any], job: Any, listener: Any, *, gpu: str | None = None) -> Any:
        return task(job, listener)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compare_run, "run_child", here)
        patched.setattr("evalkit.running.compare.expected.run_child", here)
        return evalkit.compare(
            *VARIANTS, model=str(folder / "model"), text=[str(folder / "town.txt")],
            out=folder / "store", device="cpu", convention="document", context=64,
            speed_seconds=0.1, progress=ignore,
        )  # fmt: skip


def test_quality_is_measured_and_grows_worse_with_fewer_bits(compared: Any) -> None:
    _, int8, int4 = compared.rows
    assert all(row.status == "ok" for row in compared.rows)
    assert all(row.metrics[name].value is not None for row in (int8, int4) for name in MEASURED)
    divergence = [row.metrics["kl_divergence_mean"].value for row in (int8, int4)]
    assert 0 < divergence[0] < divergence[1]
    assert int8.metrics["weight_bytes"].value == compared.rows[0].metrics["weight_bytes"].value


def test_speed_and_memory_are_not_measured_and_say_why(compared: Any) -> None:
    baseline, *simulated = compared.rows
    for name in NOT_MEASURED:
        assert baseline.metrics[name].value
        for row in simulated:
            assert row.metrics[name].value is None
            assert row.metrics[name].verdict == Word.NOT_MEASURED
            assert row.metrics[name].details["reason"] == "simulated for quality"
    shown = str(compared)
    assert (
        "not measured for fp32 KV int8, fp32 KV int4: peak, prefill, decode"
        " (simulated for quality)" in " ".join(shown.split())
    )


@pytest.mark.parametrize("format_", ["json", "markdown", "csv", "card"])
def test_every_format_shows_the_row(compared: Any, format_: str) -> None:
    shown = render(compared, format_)
    if format_ == "json":
        row = json.loads(shown)["rows"][2]
        assert row["metrics"]["decode_tokens_per_second"]["value"] is None
    else:
        assert "int4" in shown


def test_what_was_not_measured_is_not_tried_again(compared: Any, folder: Path) -> None:
    again = evalkit.compare(
        *VARIANTS, model=str(folder / "model"), text=[str(folder / "town.txt")],
        out=folder / "store", device="cpu", convention="document", context=64,
        speed_seconds=0.1, progress=ignore,
    )  # fmt: skip
    assert [row.runs for row in again.rows] == [row.runs for row in compared.rows]
    texts = [row.runs[-1] for row in again.rows]
    assert len(set(texts)) == len(texts)


def test_a_bench_refuses_it_in_one_line(folder: Path) -> None:
    given = {"model": str(folder / "model"), "device": "cpu", "out": folder / "store"}
    options = resolved(BenchOptions, given)
    plain, simulated = make_bench_plan(VARIANTS[:2], options).jobs
    assert not plain.refusal
    assert "simulated for quality" in simulated.refusal and "\n" not in simulated.refusal


def test_a_checkpoint_of_it_is_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        evalkit.quantize("int8,kv_cache=int4", model=str(folder / "model"), out=folder / "made")
    assert "int8@bitsandbytes" in str(caught.value) and "\n" not in str(caught.value)


def test_a_harmless_smaller_cache_is_what_to_use(compared: Any) -> None:
    baseline, int8, int4 = compared.rows
    no_loss = dataclasses.replace(int8.verdict, word=Word.NO_LOSS)
    rows = (baseline, *(dataclasses.replace(row, verdict=no_loss) for row in (int8, int4)))
    said = sentence(dataclasses.replace(compared, rows=rows))
    assert said.startswith("Use fp32,kv_cache=int4: it loses nothing beyond")
    assert "KV cache ÷ 3.6" in said
