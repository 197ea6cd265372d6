"""A task asked in a drawn order until it is decided: it stops, goes on, and is no whole task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

import evalkit
from evalkit.declaration import resolved
from evalkit.errors import UsageError
from evalkit.options import CompareOptions
from evalkit.progress import Event
from evalkit.records import Comparison
from evalkit.results.flips import flips
from evalkit.running.compare import until_decided
from evalkit.running.compare.stopping_plan import stopping_margin
from evalkit.store.store import Store
from evalkit.store.task_requests import TaskItem, TaskRequests
from evalkit.view.comparison import to_json

ITEMS = 240


class House:
    """A model, a task of ITEMS items, and a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = tiny.make_llama(root / "model")
        rows = [
            {"q": f"the old house {i} sees", "choices": [" a", " the"], "answer": i % 2}
            for i in range(ITEMS)
        ]
        (root / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        self.task = root / "chooses.yaml"
        self.task.write_text(tiny.multiple_choice("chooses", root / "data.jsonl"), encoding="utf-8")

    def compare(self, **words: object) -> tuple[Comparison, list[Event]]:
        """fp32 beside bf16, and the events of answering the task."""
        events: list[Event] = []
        found = evalkit.compare(
            "fp32", "bf16", model=self.model, device="cpu", tasks=str(self.task),
            out=self.root / "store", progress=events.append, **words,  # type: ignore[arg-type]
        )  # fmt: skip
        assert [row.message for row in found.rows] == ["", ""]
        return found, [event for event in events if event.stage == "chooses"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("house"))


def _accuracy(found: Comparison) -> dict[str, object]:
    shown = json.loads(to_json(found))["rows"][1]["metrics"]
    return dict(shown["chooses.acc"])


@pytest.mark.slow
def test_a_task_stops_goes_on_and_is_never_taken_for_the_whole(house: House) -> None:
    found, events = house.compare(until_decided=True, margin="20pp")
    first = _accuracy(found)
    assert first["verdict"] == "no loss" == found.rows[1].verdict.word
    assert first["decided"] == {"items": 64, "of": ITEMS, "valid": "at every look"}
    assert first["n"] == 64 and found.rows[0].metrics["chooses.acc"].n == ITEMS
    ordinary = first["details"]["ordinary"]  # type: ignore[index]
    assert ordinary["valid"] == "not under stopping"
    assert first["delta_low"] < ordinary["low"] and first["delta_low"] >= -0.2  # type: ignore
    assert "chooses: no loss, decided after 64 of 240 items, valid at every look" in str(
        found.rows[1].notes
    )
    assert max(e.done for e in events if e.variant == "bf16") == 64 * 2

    again, events = house.compare(until_decided=True, margin="20pp")
    assert not events and again.rows[1].metrics == found.rows[1].metrics

    # A smaller margin goes on behind the items that were asked.
    more, events = house.compare(until_decided=True, margin="6pp")
    second = _accuracy(more)
    assert 64 < second["decided"]["items"] < ITEMS  # type: ignore[index]
    assert {e.variant for e in events} == {"bf16"}
    assert min(e.done for e in events) == 64 * 2

    # So small a margin that all items do not decide.
    last, _ = house.compare(until_decided=True, margin="0.1pp")
    third = _accuracy(last)
    assert third["verdict"] == "inconclusive" and "decided" not in third and third["n"] == ITEMS
    assert "undecided after 240 of 240 items" in str(last.rows[1].notes)

    whole, events = house.compare(margin="20pp")
    assert _accuracy(whole)["n"] == ITEMS and {e.variant for e in events} == {"bf16"}
    assert whole.rows[1].runs != found.rows[1].runs

    changed = flips(more, Store(house.root / "store"))
    assert len(changed) == more.rows[1].metrics["chooses.flips"].value


def test_batches_split_no_group_and_orders_are_kept(tmp_path: Path) -> None:
    items = tuple(TaskItem(i, str(i), "", "", None, (), i // 30, ()) for i in range(200))
    requests = TaskRequests("t", "1", "", "", "", 0, None, 1, "", {}, (), items)
    store = Store(tmp_path).prepare()
    order, file = until_decided.drawn_order(store, requests, 0)
    assert sorted(order) == list(range(200))
    found = list(until_decided.batches(order, requests))
    assert min(map(len, found[:-1])) >= 64 and sum(map(len, found)) == 200
    assert all(len({int(i) // 30 for i in batch}) <= 3 for batch in found)
    assert until_decided.largest_group(requests) == 30
    assert until_decided.drawn_order(store, requests, 0)[0].tolist() == order.tolist()
    assert until_decided.drawn_order(store, requests, 1)[0].tolist() != order.tolist()
    assert (tmp_path / file).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [({"margin": "0pp"}, "give a margin above 0"), ({"ray": "local"}, "leave out")],
)
def test_what_cannot_be_decided_is_one_line(words: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stopping_margin(resolved(CompareOptions, {"until_decided": True, **words}))
    assert stopping_margin(resolved(CompareOptions, words)) is None
    assert stopping_margin(resolved(CompareOptions, {"until_decided": True})) == 0.01
