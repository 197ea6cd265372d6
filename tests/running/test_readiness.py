"""What this machine cannot do is refused before a model is fetched, and before it is measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import evalkit
from evalkit.backends import parse_variant
from evalkit.declaration import resolved
from evalkit.errors import ModelError, UsageError
from evalkit.models import hub
from evalkit.options import CompareOptions
from evalkit.progress import ignore
from evalkit.running import readiness
from evalkit.running.compare import run as compare_run
from evalkit.running.compare.plan import make_plan
from evalkit.store.store import Store

Asked = list[tuple[Any, ...]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the cheap checks are asked; they refuse."""
    found: Asked = []

    def refuse(*words: Any, **more: Any) -> None:
        found.append((*words, more))
        raise UsageError("torch: it cannot use the card")

    monkeypatch.setattr(readiness, "refuse_unready", refuse)
    return found


@pytest.fixture
def on_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model of 100 bytes on the hub, of which an earlier download left 30 in the cache."""
    blobs = tmp_path / "cache" / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "x.incomplete").write_bytes(b"x" * 30)

    def download(repository: str, *, offline: bool, **_: Any) -> Path:
        assert offline, "it must not be fetched"
        raise ModelError("not in the cache")

    monkeypatch.setattr(hub, "download", download)
    monkeypatch.setattr(hub, "download_bytes", lambda repository: 100)
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path / "cache")


@pytest.mark.usefixtures("on_hub")
@pytest.mark.parametrize("command", [evalkit.compare, evalkit.bench])
def test_nothing_is_fetched_for_a_machine_that_cannot_use_it(
    command: Any, asked: Asked, tmp_path: Path
) -> None:
    words = {"model": "org/model", "device": "cpu", "out": tmp_path / "store"}
    with pytest.raises(UsageError, match="cannot use the card"):
        command("fp16", **words, progress=ignore)
    assert asked == [("cpu", 100, tmp_path / "store", 0.0, {"fetched": 70})]


@pytest.mark.usefixtures("on_hub")
def test_a_model_to_be_quantized_need_not_fit_the_card(asked: Asked, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot use the card"):
        evalkit.quantize(
            "int4", model="org/model", out=tmp_path / "out", device="cpu", progress=ignore
        )
    assert asked == [("cpu", 0.0, tmp_path / "out", 0.0, {"fetched": 70})]


@pytest.mark.usefixtures("on_hub")
def test_a_full_disk_of_the_hubs_cache_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub, "download_bytes", lambda repository: 10**18)
    with pytest.raises(UsageError, match=r"disk of the hub's cache: .* needed; .*HF_HOME=DIR"):
        readiness.refuse_fetching("org/model", "", tmp_path, offline=False)


@pytest.mark.usefixtures("on_hub")
def test_a_silent_hub_and_a_model_that_is_here_are_not_refused(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def silent(repository: str) -> int:
        raise ModelError("the hub does not answer")

    readiness.refuse_fetching("demo", "", tmp_path, offline=False)
    readiness.refuse_fetching("org/model", "", tmp_path, offline=True)
    monkeypatch.setattr(hub, "download_bytes", silent)
    readiness.refuse_fetching("org/model", "", tmp_path, offline=False)
    assert asked == []


def test_bench_is_refused_before_the_machine_is_measured(asked: Asked, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot use the card"):
        evalkit.bench("fp16", model="demo", device="cpu", out=tmp_path, progress=ignore)
    assert len(asked) == 1 and not (tmp_path / "machines").exists()


def test_a_ray_worker_that_cannot_measure_says_so_in_the_row(asked: Asked, tmp_path: Path) -> None:
    words = {"model": "demo", "device": "cpu", "out": tmp_path, "weights": "random"}
    plan = make_plan(["fp16"], resolved(CompareOptions, words))
    (job,) = plan.jobs
    compare_run._run_parts(job, job, ignore)
    stored = Store(tmp_path).load(job.parts[0].run.id)
    assert stored is not None and stored.status == "failed"
    assert stored.message == "torch: it cannot use the card"
    # What is left to be measured is asked for; what is done is not.
    readiness.refuse_measuring([])
    assert len(asked) == 1
    offloaded = dataclasses.replace(job, variant=parse_variant("fp16,offload=true"))
    with pytest.raises(UsageError):
        readiness.refuse_measuring([offloaded])
    assert asked[1][1] == 0.0
