"""Answers are kept as they come: an interrupted task goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from task_helpers import HashLM, own_data, own_tasks

from evalkit.errors import StoreError
from evalkit.records import TaskSlice
from evalkit.store.task_requests import TaskRequests
from evalkit.tasks import answers as task_answers
from evalkit.tasks.answers import answer_requests, load_answers
from evalkit.tasks.loading import load_tasks
from evalkit.tasks.prompts import build_requests

pytestmark = pytest.mark.usefixtures("registry_home")


@pytest.fixture
def requests_of(tmp_path: Path) -> dict[str, TaskRequests]:
    own_tasks(tmp_path / "yaml")
    own_data(tmp_path / "data")
    names = [TaskSlice(name) for name in ("choices", "sums", "pages")]
    loaded = load_tasks(names, data=tmp_path / "data", include_path=[tmp_path / "yaml"])
    return {task.name: build_requests(task) for task in loaded.tasks}


@pytest.mark.parametrize("name", ["choices", "sums", "pages"])
def test_interrupted_task_goes_on_and_gives_the_same(
    requests_of: dict[str, TaskRequests], tmp_path: Path, name: str
) -> None:
    requests = requests_of[name]
    whole = answer_requests(requests, HashLM(), tmp_path / "whole")
    stopped = HashLM(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        answer_requests(requests, stopped, tmp_path / "parts")
    told: list[tuple[int, int]] = []
    resumed = HashLM()
    answers = answer_requests(
        requests,
        resumed,
        tmp_path / "parts",
        advance=lambda done, total: told.append((done, total)),
    )
    assert len(resumed.asked) == requests.count - 3
    assert told[0] == (3, requests.count)
    assert told[-1] == (requests.count, requests.count)
    np.testing.assert_array_equal(answers.loglikelihood, whole.loglikelihood)
    np.testing.assert_array_equal(answers.greedy, whole.greedy)
    assert answers.text == whole.text


def test_finished_task_is_not_asked_again(
    requests_of: dict[str, TaskRequests], tmp_path: Path
) -> None:
    requests = requests_of["choices"]
    first = answer_requests(requests, HashLM(), tmp_path)
    lm = HashLM("other")
    again = answer_requests(requests, lm, tmp_path)
    assert lm.asked == []
    np.testing.assert_array_equal(again.loglikelihood, first.loglikelihood)
    assert again.answer("loglikelihood", 5) == HashLM()._pair(list(requests.flat())[5][2].arguments)
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == [
        f"choices-{requests.id}.parquet"
    ]


def test_stop_from_the_listener_loses_no_answer(
    requests_of: dict[str, TaskRequests], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_answers, "FLUSH_SECONDS", -1.0)

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_requests(requests_of["choices"], HashLM(), tmp_path, advance=stop)
    lm = HashLM()
    answer_requests(requests_of["choices"], lm, tmp_path)
    assert len(lm.asked) == requests_of["choices"].count - 7


def test_answers_reach_the_disk_while_the_model_works(
    requests_of: dict[str, TaskRequests], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_answers, "FLUSH_SECONDS", -1.0)
    requests = requests_of["choices"]
    seen = []

    def look(done: int, total: int) -> None:
        seen.append((done, len(list(tmp_path.rglob("part-*.parquet")))))

    answer_requests(requests, HashLM(), tmp_path, advance=look)
    assert (1, 1) in seen
    assert (12, 12) in seen
    assert not list(tmp_path.rglob("part-*"))


class QuietLM(HashLM):
    """A model that never calls the cache hook."""

    def _answer(self, kind: str, request: Any, answer: Any) -> Any:
        return answer


def test_model_without_partial_answers_works(
    requests_of: dict[str, TaskRequests], tmp_path: Path
) -> None:
    quiet = answer_requests(requests_of["sums"], QuietLM(), tmp_path / "a")
    loud = answer_requests(requests_of["sums"], HashLM(), tmp_path / "b")
    assert quiet.text == loud.text


def test_answers_out_of_order_find_their_place(
    requests_of: dict[str, TaskRequests], tmp_path: Path
) -> None:
    class Backwards(HashLM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return super().loglikelihood(requests[::-1])[::-1]

    requests = requests_of["choices"]
    with pytest.raises(KeyboardInterrupt):
        answer_requests(requests, Backwards(stop_after=5), tmp_path / "a")
    answers = answer_requests(requests, HashLM(), tmp_path / "a")
    whole = answer_requests(requests, HashLM(), tmp_path / "b")
    np.testing.assert_array_equal(answers.loglikelihood, whole.loglikelihood)


class RememberingLM(HashLM):
    """A model that takes earlier answers, as LanguageModel does, and returns them."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(stop_after=stop_after)
        self.known: dict[int, Any] = {}
        self.listed = 0

    def remember(self, kind: str, answers: dict[int, Any]) -> None:
        self.known = dict(answers)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        self.listed = len(requests)
        return [
            self.known[i] if i in self.known else super(RememberingLM, self).loglikelihood([r])[0]
            for i, r in enumerate(requests)
        ]


def test_model_that_remembers_sees_all_requests_again(
    requests_of: dict[str, TaskRequests], tmp_path: Path
) -> None:
    requests = requests_of["choices"]
    with pytest.raises(KeyboardInterrupt):
        answer_requests(requests, RememberingLM(stop_after=5), tmp_path / "a")
    lm = RememberingLM()
    answers = answer_requests(requests, lm, tmp_path / "a")
    assert lm.listed == requests.count
    assert lm.known == {
        i: HashLM()._pair(request.arguments)
        for i, (_, _, request) in enumerate(requests.flat())
        if i < 5
    }
    assert len(lm.asked) == requests.count - 5
    whole = answer_requests(requests, HashLM(), tmp_path / "b")
    np.testing.assert_array_equal(answers.loglikelihood, whole.loglikelihood)


def test_missing_and_damaged_answers_are_refused(
    requests_of: dict[str, TaskRequests], tmp_path: Path
) -> None:
    requests = requests_of["choices"]
    with pytest.raises(StoreError, match="cannot be read"):
        load_answers(requests, tmp_path)
    answer_requests(requests, HashLM(), tmp_path)
    (table,) = tmp_path.glob("*.parquet")
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(table).slice(0, 4), table)
    with pytest.raises(StoreError, match="is incomplete"):
        load_answers(requests, tmp_path)
