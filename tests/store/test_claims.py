import json
import multiprocessing as mp
import os
import threading
import time
from pathlib import Path

import pytest

from evalkit.store import claims
from evalkit.store.claims import claim


def _count(path: str, counter: str, rounds: int) -> None:
    for _ in range(rounds):
        with claim(Path(path)):
            number = int(Path(counter).read_text())
            time.sleep(0.001)
            Path(counter).write_text(str(number + 1))


def test_only_one_process_works_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.001)
    counter = tmp_path / "counter"
    counter.write_text("0")
    context = mp.get_context("fork")
    arguments = (str(tmp_path / "claim.json"), str(counter), 20)
    workers = [context.Process(target=_count, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counter.read_text() == "80"
    assert not (tmp_path / "claim.json").exists()


def test_a_dead_holder_is_taken_over_at_once(tmp_path: Path) -> None:
    file = tmp_path / "claim.json"

    def die() -> None:
        with claim(file):
            os._exit(9)

    child = mp.get_context("fork").Process(target=die)
    child.start()
    child.join()
    assert file.exists()
    with claim(file):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_silent_holder_of_another_host_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.1)
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.01)
    file = tmp_path / "claim.json"
    file.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "t"}))
    told: list[str] = []
    with claim(file, told.append):
        assert told == ["process 1 on elsewhere"]


def test_a_beating_holder_of_another_host_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.01)
    file = tmp_path / "claim.json"
    ended = threading.Event()

    def hold() -> None:
        for beat in range(75):
            file.write_text(json.dumps({"host": "elsewhere", "pid": 1, "beats": beat}))
            time.sleep(0.02)
        ended.set()
        file.unlink()

    holder = threading.Thread(target=hold)
    holder.start()
    while not file.exists():
        time.sleep(0.001)
    with claim(file):
        assert ended.is_set()
    holder.join()
