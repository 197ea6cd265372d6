"""`--only`: what was left out costs nothing, is "not asked for", and is found by later runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

import evalkit
from evalkit.declaration import resolved
from evalkit.errors import UsageError
from evalkit.options import CompareOptions
from evalkit.progress import ignore
from evalkit.running.compare import run as compare_run
from evalkit.running.compare import texts, worker
from evalkit.running.compare.plan import make_plan
from evalkit.store.store import Store
from evalkit.view import render

SPEEDS = {"prefill_tokens_per_second", "decode_tokens_per_second"}
MEMORY = {"weight_bytes", "peak_memory_bytes"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("only")
    (folder / "town.txt").write_text(tiny.documents(1, 3), encoding="utf-8")
    return tiny.make_llama(folder / "model")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything runs in this process; what is begun of it, in turn."""
    found: list[str] = []

    def here(task: Callable[..., Any], job: Any, listener: Any, *, gpu: str | None = None) -> Any:
        return task(job, listener)

    def told(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **words: Any) -> Any:
            found.append(name)
            return real(*args, **words)

        return call

    monkeypatch.setattr(compare_run, "run_child", here)
    monkeypatch.setattr("evalkit.running.compare.expected.run_child", here)
    for where, name in ((worker, "open_variant"), (worker, "_probe"), (texts, "_noise")):
        monkeypatch.setattr(where, name, told(name, getattr(where, name)))
    return found


def words(model: Path, store: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": str(model), "text": [str(model.parent / "town.txt")], "out": store,
        "device": "cpu", "convention": "document", "context": 64, **more,
    }  # fmt: skip


def test_what_was_left_out_is_not_asked_for_and_found_by_a_later_run(
    model: Path, tmp_path: Path, begun: list[str]
) -> None:
    asked = words(model, tmp_path, progress=ignore)
    quality = evalkit.compare("fp32", "bf16", **asked, only="quality")
    assert begun == ["open_variant", "_noise", "open_variant"]
    assert [row.status for row in quality.rows] == ["ok", "ok"]
    assert not (SPEEDS | MEMORY) & quality.rows[1].metrics.keys()
    table = render(quality, "table")
    assert "not asked for: size, peak, prefill, decode, bits (--only quality)" in table
    assert json.loads(render(quality, "json"))["only"] == ["quality"]

    begun.clear()
    speed = evalkit.compare("fp32", "bf16", **asked, only=["speed"])
    assert begun == ["open_variant", "_probe"] * 2
    assert speed.rows[1].metrics.keys() & (SPEEDS | MEMORY | {"perplexity"}) == SPEEDS
    assert {row.verdict.word for row in speed.rows} == {"not asked for"}
    assert speed.sentence == "Quality was not asked for."
    left_out = "not asked for: size, peak, perplexity, KL, top-1, bits, tasks (--only speed)"
    assert left_out in render(speed, "table")

    begun.clear()
    whole = evalkit.compare("fp32", "bf16", **asked)
    assert begun == ["open_variant", "_probe"] * 2, "only memory was left"
    assert {"perplexity"} | SPEEDS | MEMORY <= whole.rows[1].metrics.keys()
    assert "--only" not in whole.command and "--only quality" in quality.command


def test_texts_and_tasks_that_were_left_out_are_not_even_read(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalkit.running.compare.generating.run_child", None)
    given = words(
        model, tmp_path, text=["not-there.txt"], tasks="no_such_task", only="speed,memory"
    )
    (job,) = make_plan(["fp32"], resolved(CompareOptions, given)).jobs
    assert [part.kind for part in job.parts] == ["memory", "speed"]
    assert job.sources == ()


def test_memory_does_not_depend_on_how_speed_is_measured(model: Path, tmp_path: Path) -> None:
    """A failure of one leaves the other as it was: they are stored apart."""
    plan = make_plan(["fp32"], resolved(CompareOptions, words(model, tmp_path)))
    memory, speed, _ = plan.jobs[0].parts
    assert {name for name, _ in memory.needed} == MEMORY | {
        "bits_per_weight",
        "bits_per_quantized_weight",
    }
    assert {name for name, _ in speed.needed} >= SPEEDS
    assert memory.run.id != speed.run.id


@pytest.mark.parametrize(
    ("only", "more", "says"),
    [
        ("sped", {}, "unknown word of --only 'sped'"),
        ("tasks", {}, "--only tasks leaves nothing to measure of fp32"),
        ("text", {"text": (), "tasks": "one"}, "text needs --text"),
        ("quality", {"weights": "random", "text": ()}, "leaves nothing to measure"),
    ],
)
def test_nothing_to_measure_is_one_line(
    only: str, more: dict[str, Any], says: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        make_plan(["fp32"], resolved(CompareOptions, words(model, tmp_path, only=only, **more)))


def test_the_store_holds_a_run_for_each_part(model: Path, tmp_path: Path, begun: list[str]) -> None:
    evalkit.compare("fp32", **words(model, tmp_path, progress=ignore, only="memory"))
    assert [run.suite.name for run in Store(tmp_path).runs()] == ["memory"]
