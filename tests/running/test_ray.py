"""The same comparison on a Ray cluster: equal values, also where a worker is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny
from notebooks_made import write_notebook
from timeless import timeless

import evalkit
from evalkit.errors import UsageError
from evalkit.processors import threads
from evalkit.progress import ignore
from evalkit.running import cluster as running_cluster
from evalkit.view import render

ray = pytest.importorskip("ray")
VARIANTS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ray")
    model = tiny.make_llama(folder / "model")
    (folder / "text.txt").write_text(tiny.documents(1, 20), encoding="utf-8")
    return {"model": str(model), "text": str(folder / "text.txt"), "progress": ignore}


@pytest.fixture(scope="module")
def local(words: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return values(evalkit.compare(*VARIANTS, out=tmp_path_factory.mktemp("local"), **words))


def values(comparison: Any) -> Any:
    return timeless(json.loads(render(comparison, "json")))


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Two nodes on this machine with room for `request.param` tasks in all."""
    from ray.cluster_utils import Cluster

    each = threads() * max(1, request.param // 2)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": each})
    if request.param > 1:
        made.add_node(num_cpus=each)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [1, 2, 4], indirect=True)
def test_equal_values_on_any_number_of_workers(
    cluster: Any, words: dict[str, Any], local: Any, tmp_path: Path
) -> None:
    found = evalkit.compare(*VARIANTS, out=tmp_path, ray=cluster.address, **words)
    assert values(found) == local


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_equal_values_of_texts_in_shares(
    cluster: Any, words: dict[str, Any], local: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    size = Path(words["text"]).stat().st_size
    monkeypatch.setattr(running_cluster, "SHARE_BYTES", size // 3)
    found = evalkit.compare(*VARIANTS, out=tmp_path, ray=cluster.address, **words)
    assert values(found) == local


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_a_worker_that_is_killed_midway(
    cluster: Any, words: dict[str, Any], local: Any, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for process in psutil.process_iter(["name", "cmdline"]):
                if "_run_shard" in " ".join(process.info["cmdline"] or [process.info["name"]]):
                    time.sleep(2)
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    break
            time.sleep(0.1)

    thread = threading.Thread(target=kill_one)
    thread.start()
    found = evalkit.compare(*VARIANTS, out=tmp_path, ray=cluster.address, **words)
    thread.join()
    assert killed
    assert values(found) == local


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_the_cells_of_a_batch(cluster: Any, tmp_path: Path, monkeypatch: Any) -> None:
    write_notebook(tmp_path / "note.ipynb", "print(model, limit)\nassert model != 'bad'")
    monkeypatch.chdir(tmp_path)
    grid = tmp_path / "grid.yaml"
    grid.write_text("notebook: note\ngrid: {model: [good, bad]}\nparameters: {limit: 2}")
    done = evalkit.batch(grid, ray=cluster.address, progress=ignore)
    assert [cell.status for cell in done.cells] == ["ok", "failed"]


def test_no_cluster_there_is_one_line(words: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--ray 127.0.0.1:1: no cluster answers .*HOST:PORT"):
        evalkit.compare(*VARIANTS, out=tmp_path, ray="127.0.0.1:1", **words)
