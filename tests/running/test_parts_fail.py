"""A part that runs out of memory fails alone: the others are measured, and the row says which."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch

import evalkit
from evalkit.inference import timing
from evalkit.metrics import memory, size, speed
from evalkit.progress import ignore
from evalkit.records import Model, Run, Suite, TaskSlice, Variant
from evalkit.running.compare import cost, worker
from evalkit.running.compare import run as compare_run
from evalkit.running.compare.cost import Costs
from evalkit.running.doctor import checks
from evalkit.running.job import Part
from evalkit.scoring.head import Forward
from evalkit.store.store import Store
from evalkit.view import render

TEXT, SPEED = "perplexity", "decode_tokens_per_second"
SIZE, PEAK = "weight_bytes", "peak_memory_bytes"


def full(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 bytes. Of GPU 0 …")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    (folder / "town.txt").write_text(tiny.documents(1, 3), encoding="utf-8")
    return tiny.make_llama(folder / "model")


def compared(
    model: Path, store: Path, monkeypatch: pytest.MonkeyPatch, *, whole: bool = False
) -> Any:
    def here(task: Callable[..., Any], job: Any, listener: Any, *, gpu: str | None = None) -> Any:
        return task(job, listener)

    monkeypatch.setattr(compare_run, "run_child", here)
    monkeypatch.setattr("evalkit.running.compare.expected.run_child", here)
    result = evalkit.compare(
        "fp32", model=str(model), text=[str(model.parent / "town.txt")], out=store, device="cpu",
        convention="document", context=64, progress=ignore,
    )  # fmt: skip
    return result if whole else result.rows[0]


def test_an_overflow_is_found_before_anything_is_timed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(worker, "computes_in_float16", lambda session: True)
    monkeypatch.setattr(worker, "first_not_finite", lambda model, ids: "model.layers.1.mlp")
    monkeypatch.setattr(worker, "_measure", lambda store, part, *_: begun.append(part.kind))
    row = compared(model, tmp_path, monkeypatch)
    assert begun == ["memory", "speed"]
    assert "float16 overflows in this model, first in model.layers.1.mlp" in row.message
    assert "use bf16" in row.message


@pytest.mark.parametrize(
    ("where", "name", "says", "measured", "lost"),
    [
        (Forward, "rows", "town: ", {SPEED, SIZE, PEAK}, {TEXT}),
        (Forward, "logits", "town: ", {SPEED, SIZE, PEAK}, {TEXT}),
        (timing, "time_generation", "speed: out of memory", {TEXT, SIZE, PEAK}, {SPEED}),
        (memory, "phase_peaks", "memory: out of memory", {TEXT, SIZE, SPEED}, {PEAK}),
        (size, "measure", "size: out of memory", {TEXT, PEAK, SPEED}, {SIZE}),
    ],
    ids=["prefill of a text", "head of a text", "speed", "memory", "weights"],
)
def test_one_part_fails_and_the_others_are_measured(
    where: Any, name: str, says: str, measured: set[str], lost: set[str],
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(where, name, full)
    row = compared(model, tmp_path, monkeypatch)
    assert row.status == "out_of_memory"
    assert says in row.message
    assert measured <= row.metrics.keys()
    assert not lost & row.metrics.keys()


def test_a_health_check_that_does_not_fit_is_noted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "finite_and_some", full)
    row = compared(model, tmp_path, monkeypatch)
    assert row.status == "ok"
    assert any("weights are finite ran out of memory" in note for note in row.notes)


def test_two_parts_fail_and_the_row_says_both(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Forward, "rows", full)
    monkeypatch.setattr(speed, "measure", full)
    monkeypatch.setattr(memory, "measure", full)
    row = compared(model, tmp_path, monkeypatch)
    assert row.status == "out_of_memory"
    for words in ("speed: out of memory", "memory: out of memory", "town: "):
        assert words in row.message


def test_what_an_engine_does_not_run_is_not_measured_and_the_row_stands(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model without a usual cache lost its whole row, and was tried again every time."""
    tried: list[object] = []
    monkeypatch.setattr(speed, "measure", lambda probe: tried.append(probe) or 1 / 0)
    for _ in range(2):
        row = compared(model, tmp_path, monkeypatch)
    assert row.status == "ok"
    assert any(note.startswith("speed not measured: ZeroDivisionError") for note in row.notes)
    assert SPEED not in row.metrics and {TEXT, SIZE, PEAK} <= row.metrics.keys()
    assert len(tried) == 1


def test_what_was_measured_stands_where_its_cost_cannot_be_counted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(config: Any) -> Any:
        raise NotImplementedError("no such architecture on the meta device")

    monkeypatch.setattr(cost, "meta_model", unknown)
    row = compared(model, tmp_path, monkeypatch)
    assert row.status == "ok", row.message
    assert all(run.cost is None for run in Store(tmp_path).runs())


def test_a_task_that_does_not_fit_says_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without lm-eval: the worker's part of it, and the memory it left is freed."""
    monkeypatch.setitem(
        sys.modules, "evalkit.running.compare.tasks", SimpleNamespace(measure_task=full)
    )
    freed: list[str] = []
    monkeypatch.setattr(worker, "release_memory", freed.append)
    store = Store(tmp_path).prepare()
    suite = Suite("one", tasks=(TaskSlice("arc_easy"),))
    variant = Variant("fp32", "transformers")
    run = Run("r" * 16, Model("m", "i"), variant, suite, "running")
    part = Part("task", run, ())
    settings = SimpleNamespace(batch_tokens=64)
    job: Any = SimpleNamespace(variant=variant, device="cpu", settings=settings, environment=None)
    session: Any = SimpleNamespace(job=job, kernel="", notes=())
    worker._measure(store, part, session, Costs(store, job), ignore)
    stored = store.load(run.id)
    assert stored is not None and stored.status == "out_of_memory"
    assert stored.message.startswith("arc_easy: out of memory")
    assert freed == ["cpu"]


def test_what_is_measured_of_a_row_stays_in_the_table(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measure", full)
    table = render(compared(model, tmp_path, monkeypatch, whole=True), "table")
    assert "fp32: out of memory: speed: out of memory" in table
    line = next(line for line in table.splitlines() if line.strip().startswith("fp32  "))
    assert "MB" in line or "kB" in line
    assert "out of memory" in line


def test_what_failed_is_all_that_is_measured_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(speed, "measure", full)
        assert compared(model, tmp_path, patch).status == "out_of_memory"
    monkeypatch.setattr(worker, "measure_texts", full)
    monkeypatch.setattr(memory, "measure", full)
    row = compared(model, tmp_path, monkeypatch)
    assert row.status == "ok"
    assert {TEXT, SPEED, SIZE, PEAK} <= row.metrics.keys()
