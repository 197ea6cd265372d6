"""`--dry-run` says how long the plan takes, and learns from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

import evalkit
from evalkit.progress import ignore
from evalkit.running.compare.expected import clock
from evalkit.store.store import Store


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("expected")
    for seed in (1, 2):
        (folder / f"{seed}.txt").write_text(tiny.documents(seed, 6), encoding="utf-8")
    model = tiny.make_llama(folder / "model")
    return {"model": str(model), "out": folder / "store", "progress": ignore, "device": "cpu"}


def lines(words: dict[str, Any], text: int, *variants: str) -> list[str]:
    file = Path(words["model"]).with_name(f"{text}.txt")
    said = evalkit.dry_run(*variants, **words, text=file)
    return [line for line in said.splitlines() if line.startswith("time")]


def test_a_plan_is_told_from_the_roofline_and_then_from_earlier_runs(
    words: dict[str, Any],
) -> None:
    first, second, whole = lines(words, 1, "fp32", "bf16")
    assert first.startswith("time of fp32: loading ") and ", texts " in first
    assert ", speed and memory " in second
    assert "within a factor of 3.0, told from the roofline alone" in whole

    text = Path(words["model"]).with_name("1.txt")
    result = evalkit.compare("fp32", "bf16", **words, text=text)
    assert [row.status for row in result.rows] == ["ok", "ok"]
    costs = [run.cost for run in Store(words["out"]).runs()]
    assert {cost.kind for cost in costs if cost} == {"probes", "texts"}
    assert all(cost and cost.seconds > 0 and cost.operations > 0 for cost in costs)

    assert lines(words, 1, "fp32", "bf16") == []
    one, _, again = lines(words, 2, "fp32", "bf16")
    assert "speed and memory" not in one and "texts" in one
    assert "told from this variant's earlier runs here" in again


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "1 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert clock(seconds) == words
