"""A store in an object store: fetched before, sent after, the same on the next machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from timeless import timeless

import evalkit
from evalkit.declaration import resolved
from evalkit.errors import StoreError, UsageError
from evalkit.options import CompareOptions
from evalkit.progress import Event, ignore
from evalkit.running.compare.plan import make_plan
from evalkit.running.compare.run import _run_parts
from evalkit.store.mirror import Mirror, _inside, is_url, mirrored
from evalkit.view import render


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Go to another machine, which has its own cache, by its name."""
    return lambda name: monkeypatch.setenv("EVALKIT_HOME", str(tmp_path / name))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path / 'bucket'}"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "text.txt").write_text(tiny.documents(1, 10), encoding="utf-8")
    model = tiny.make_llama(folder / "model")
    return {"model": str(model), "text": (str(folder / "text.txt"),), "device": "cpu"}


def values(comparison: Any) -> Any:
    return timeless(json.loads(render(comparison, "json")))


def test_another_machine_measures_nothing_again(
    machine: Any, url: str, words: dict[str, Any], tmp_path: Path
) -> None:
    machine("one")
    first = evalkit.compare("fp32", "fp16", out=url, progress=ignore, **words)
    assert f"--out {url}" in first.command
    bucket = tmp_path / "bucket"
    assert list(bucket.glob("runs/*.json"))
    assert list(bucket.rglob("rows.bin"))
    assert not list(bucket.rglob("claims"))
    machine("two")
    events: list[Event] = []
    again = evalkit.compare("fp32", "fp16", out=url, progress=events.append, **words)
    assert values(again) == values(first)
    assert "scoring" not in {event.stage for event in events}
    assert Path(again.store).is_relative_to(tmp_path / "two")


def test_a_worker_elsewhere_fetches_and_sends(
    machine: Any, url: str, words: dict[str, Any], tmp_path: Path
) -> None:
    machine("driver")
    with mirrored(url) as folder:
        options = resolved(CompareOptions, {"out": url, **words})
        plan = make_plan(("fp32", "fp16"), options, folder=folder)
    jobs = [(plan.jobs[0], job, part) for job in plan.jobs for part in job.parts]
    for number, (baseline, job, part) in enumerate(jobs):
        machine(f"worker-{number}")
        _run_parts(baseline, type(job)(**{**job.__dict__, "parts": (part,)}), ignore)
    machine("driver")
    events: list[Event] = []
    found = evalkit.compare("fp32", "fp16", out=url, progress=events.append, **words)
    assert [row.status for row in found.rows] == ["ok", "ok"]
    assert not {"scoring", "loading"} & {event.stage for event in events}


def test_what_changed_is_sent_and_fetched_and_nothing_else(machine: Any, url: str) -> None:
    machine("one")
    with mirrored(url) as folder:
        assert folder is not None
        (folder / "runs").mkdir(parents=True)
        (folder / "runs" / "a.json").write_text("1")
        (folder / "runs" / ".tmp-b.json").write_text("half")
        (folder / "references" / "x").mkdir(parents=True)
        (folder / "references" / "x" / "rows.bin").write_text("unfinished")
    machine("two")
    with mirrored(url) as other:
        assert other is not None
        names = {p.relative_to(other).as_posix() for p in other.rglob("*") if p.is_file()}
        assert names == {"runs/a.json", ".mirror.json"}
        (other / "runs" / "a.json").write_text("22")
    machine("one")
    with mirrored(url) as folder:
        assert folder is not None
        assert (folder / "runs" / "a.json").read_text() == "22"


def test_an_error_is_one_line(machine: Any, tmp_path: Path) -> None:
    machine("one")
    with pytest.raises(UsageError, match="--out nope://x cannot be opened"):
        Mirror("nope://x")
    (tmp_path / "file").write_text("")
    mirror = Mirror(f"file://{tmp_path}/file/below")
    (mirror.folder / "a.json").write_text("1")
    with pytest.raises(StoreError, match=r"cannot be written .*what was measured is in"):
        mirror.send()


def test_names_cannot_leave_the_store() -> None:
    assert _inside("bucket/store/runs/a.json", "bucket/store") == "runs/a.json"
    for path in ("bucket/store/../../etc/passwd", "bucket/store/", "bucket/store/a/../../b"):
        with pytest.raises(StoreError, match="is no name of a file of a store"):
            _inside(path, "bucket/store")


def test_a_directory_is_used_as_it_is(tmp_path: Path) -> None:
    assert not is_url(tmp_path)
    with mirrored(tmp_path) as folder:
        assert folder == tmp_path
    with mirrored(None) as folder:
        assert folder is None
