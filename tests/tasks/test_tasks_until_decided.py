"""A task asked of a stand-in model until its loss is told from the margin."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from task_helpers import HashLM, choice_rows, own_tasks, write_jsonl

from evalkit.errors import VariantError
from evalkit.records import Measurement, Model, Run, Suite, TaskSlice, Variant
from evalkit.results.load_measured import DRAWN
from evalkit.running.compare.until_decided import UntilDecided
from evalkit.running.job import Job, Part, Stopping
from evalkit.store.store import Store
from evalkit.store.task_requests import TaskRequests
from evalkit.tasks.loading import LoadedTask, load_tasks
from evalkit.tasks.prompts import build_requests
from evalkit.tasks.scores import score_answers, score_task

pytestmark = pytest.mark.usefixtures("registry_home")
ITEMS = 150


class House:
    """A task of ITEMS items that a baseline has answered, and a store."""

    def __init__(self, root: Path) -> None:
        own_tasks(root / "yaml")
        write_jsonl(root / "data/tasks/choices/test.jsonl", choice_rows(ITEMS))
        loaded = load_tasks(
            [TaskSlice("choices")], data=root / "data", include_path=[root / "yaml"]
        )
        self.task: LoadedTask = loaded.tasks[0]
        self.requests: TaskRequests = build_requests(self.task)
        self.store = Store(root / "store").prepare()
        records = score_task(self.task, self.requests, HashLM(), self.store.raw("base"))
        records.save(self.store.raw("base") / "samples.parquet")
        details = {
            "task": "choices", "score": "acc_norm", "filter": "none", "primary": True,
            "aggregation": "mean",
        }  # fmt: skip
        table = "raw/base/samples.parquet"
        self.save("base", Measurement(records.key(records.primary), 1, "", "higher",
                                      table=table, details=details))  # fmt: skip

    def save(self, name: str, *measurements: Measurement) -> None:
        """Store a finished run."""
        run = Run(name, Model("m", "id"), Variant("fp32", "transformers"), Suite("s"), "ok")
        self.store.save(Run(**{**vars(run), "measurements": measurements}))

    def until(self, margin: float, answered: tuple[str, ...] = ("base",)) -> UntilDecided:
        """What stops the task at a margin; the variant has no other task."""
        stopping = Stopping(margin, answered)
        run = Run("own", Model("m", "id"), Variant("int8", "x"), Suite("s"), "running")
        parts = (Part("task", run, (), stopping=stopping),)
        job = cast(Job, SimpleNamespace(seed=0, parts=parts))
        return UntilDecided(self.store, job, stopping)

    def ask(self, margin: float, lm: HashLM, folder: str = "own") -> tuple[Any, ...]:
        """Task, requests, answers and details."""
        until = self.until(margin)
        return until.answers(self.task, self.requests, cast(Any, lm), self.store.raw(folder), None)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_the_same_answers_are_decided_early_and_go_on_behind(house: House) -> None:
    lm = HashLM()
    task, requests, answers, details = house.ask(0.2, lm)
    told = details[DRAWN]
    assert (told["items"], told["of"], told["whole"]) == (64, ITEMS, house.requests.id)
    assert len(lm.asked) == answers.loglikelihood.size == 3 * 64
    # Scored alone, the items have the scores that they have in the whole task.
    some = score_answers(task, requests, answers).items("acc")
    whole = score_task(house.task, house.requests, HashLM(), house.store.raw("base")).items("acc")
    assert np.array_equal(some.values, whole.values[some.doc_ids])

    further = HashLM()
    *_, details = house.ask(0.001, further)
    assert details[DRAWN]["items"] == ITEMS
    assert len(further.asked) == 3 * (ITEMS - 64)


def test_an_interrupted_batch_is_finished(house: House) -> None:
    with pytest.raises(KeyboardInterrupt):
        house.ask(0.001, HashLM(stop_after=200))
    rest = HashLM()
    house.ask(0.001, rest)
    assert len(rest.asked) == 3 * ITEMS - 200


def test_a_clear_loss_is_decided_and_counts_for_the_other_tasks(house: House) -> None:
    *_, details = house.ask(0.01, HashLM(salt="worse"))
    p_values = details[DRAWN]["p_values"]
    assert details[DRAWN]["items"] <= ITEMS and min(p_values) <= 1
    # A second task that is not begun: the level of the first is halved.
    again = house.until(0.01)
    assert again.p_values == {"choices.acc_norm": (1.0, 1.0)}
    house.save("own", Measurement("choices.acc_norm", 1, "", "higher",
                                  details={"primary": True, DRAWN: details[DRAWN]}))  # fmt: skip
    assert house.until(0.01).p_values == {"choices.acc_norm": tuple(p_values)}
    assert house.until(0.02).p_values == {"choices.acc_norm": (1.0, 1.0)}


def test_a_baseline_without_answers_is_named(house: House) -> None:
    until = house.until(0.01, ("absent",))
    with pytest.raises(VariantError, match="no answers to choices"):
        until.answers(house.task, house.requests, cast(Any, HashLM()), house.store.raw("own"), None)
