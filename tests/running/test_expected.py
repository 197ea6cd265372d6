"""`--dry-run` says how long the plan takes, and learns from what was measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tiny

import evalkit
from evalkit.declaration import resolved
from evalkit.options import CompareOptions
from evalkit.progress import ignore
from evalkit.records.dry_run import DryRun
from evalkit.running.compare.cost import Costs, _distinct_characters
from evalkit.running.compare.plan import make_plan
from evalkit.store.store import Store


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("expected")
    for seed in (1, 2):
        (folder / f"{seed}.txt").write_text(tiny.documents(seed, 6), encoding="utf-8")
    model = tiny.make_llama(folder / "model")
    return {"model": str(model), "out": folder / "store", "progress": ignore, "device": "cpu"}


def planned(words: dict[str, Any], text: int, *variants: str) -> DryRun:
    file = Path(words["model"]).with_name(f"{text}.txt")
    return evalkit.dry_run(*variants, **words, text=file)


def steps(found: DryRun, row: int) -> list[str]:
    return [step.name for step in found.rows[row].steps]


def test_a_plan_is_told_from_the_roofline_and_then_from_earlier_runs(
    words: dict[str, Any],
) -> None:
    cold = planned(words, 1, "fp32", "bf16")
    assert steps(cold, 0) == ["importing", "loading", "memory", "speed", "texts"]
    assert cold.time is not None
    assert cold.time.source == "the roofline alone and measured just now"
    every = [*cold.preparing, *(step for row in cold.rows for step in row.steps)]
    assert cold.time.seconds == pytest.approx(sum(step.time.seconds for step in every))
    assert [row.memory for row in cold.rows] == sorted(
        (row.memory or 0.0 for row in cold.rows), reverse=True
    )
    assert 0 < (cold.rows[1].memory or 0.0) < cold.memory_free <= cold.memory_total
    assert cold.texts is not None and cold.texts.reference_bytes > 0

    text = Path(words["model"]).with_name("1.txt")
    result = evalkit.compare("fp32", "bf16", **words, text=text)
    assert [row.status for row in result.rows] == ["ok", "ok"]
    costs = [run.cost for run in Store(words["out"]).runs()]
    assert {cost.kind for cost in costs if cost} == {"memory", "speed", "texts"}
    assert all(cost and cost.seconds > 0 and cost.operations > 0 for cost in costs)

    done = planned(words, 1, "fp32", "bf16")
    assert [row.status for row in done.rows] == ["measured before"] * 2
    assert done.time is None and not done.time_unknown
    again = planned(words, 2, "fp32", "bf16")
    assert steps(again, 0) == ["importing", "loading", "texts"]
    assert again.time is not None
    assert again.time.source.startswith("this variant's earlier runs here")


def test_a_task_is_counted_from_its_prompts(words: dict[str, Any]) -> None:
    """Before it is measured and after alike; a prefix that prompts share is read once."""
    folder = Path(words["model"]).parent
    rows = [
        {"q": f"the old house {i}", "choices": [" sees", " has"], "answer": 0} for i in range(3)
    ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "own.yaml").write_text(tiny.multiple_choice("own", folder / "test.jsonl"))
    asked = {**words, "tasks": str(folder / "own.yaml"), "out": folder / "tasks"}
    options: Any = {name: value for name, value in asked.items() if name != "progress"}
    before = make_plan(["fp32"], resolved(CompareOptions, options))
    (part,) = (part for part in before.jobs[0].parts if part.kind == "task")
    expected = Costs(Store(before.store), before.jobs[0]).of(part)
    # The baseline answers its first items twice, for the noise floor.
    variant = dataclasses.replace(before.jobs[0], is_baseline=False)
    once = Costs(Store(before.store), variant).of(part)
    assert expected.operations == pytest.approx(2 * once.operations)
    evalkit.compare("fp32", **asked)
    measured = Store(before.store).load(part.run.id)
    assert measured is not None and measured.cost is not None
    assert dataclasses.replace(measured.cost, seconds=0.0) == expected
    assert measured.cost.operations > 0


def test_the_models_own_calibration_text_is_a_step(words: dict[str, Any]) -> None:
    """It is written token by token: its time is that of reading the weights so often."""
    small = "samples=64,sample_length=32,group_size=32"
    own = f"int4@gptq,calibration=self,{small}"
    found = planned(words, 1, "fp32", own)
    assert steps(found, 1)[:3] == ["importing", "writing calibration text", "quantizing"]
    asked: Any = {**words, "text": Path(words["model"]).with_name("1.txt")}
    del asked["progress"]
    plan = make_plan([own], resolved(CompareOptions, asked))
    costs = Costs(Store(plan.store), plan.jobs[0])
    writing, _ = costs.making
    assert writing.bytes == 2 * 32 * plan.jobs[0].checkpoint.weight_bytes
    assert writing.operations == costs.sizes.forward(2048) + costs.sizes.logits(2048)


def test_decomposing_reads_the_sample_three_times_more(words: dict[str, Any]) -> None:
    asked: Any = {**words, "text": Path(words["model"]).with_name("1.txt")}
    del asked["progress"]
    found = []
    for decompose in (False, True):
        options = resolved(CompareOptions, asked | {"decompose": decompose})
        plan = make_plan(["fp32", "int4@bitsandbytes"], options)
        costs = [Costs(Store(plan.store), job) for job in plan.jobs]
        parts = [next(p for p in job.parts if p.kind == "texts") for job in plan.jobs]
        found.append([one.of(part) for one, part in zip(costs, parts, strict=True)])
    (baseline, plain), (same, decomposed) = found
    assert same == baseline
    # The text is shorter than the sample, so all of it is read each time.
    assert decomposed.operations == 4 * plain.operations
    assert decomposed.bytes == 4 * plain.bytes


def test_a_shared_prefix_is_read_once() -> None:
    assert _distinct_characters(["", "the old house", "the old tree", "trees"]) == 13 + 4 + 4
