"""Texts scored in shares by several processes: values equal to those of one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
from timeless import timeless

import evalkit
from evalkit.declaration import resolved
from evalkit.options import CompareOptions
from evalkit.progress import Event, ignore
from evalkit.running import cluster
from evalkit.running.cluster import Shard, group, shards, share_count
from evalkit.running.compare.describe import describe
from evalkit.running.compare.plan import ComparePlan, make_plan
from evalkit.running.compare.run import _run_parts, run_plan
from evalkit.running.job import Job, Part
from evalkit.store.store import Store
from evalkit.view import render

VARIANTS = ("fp32", "fp16")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("shares")
    text = folder / "text.txt"
    text.write_text(tiny.documents(1, 20), encoding="utf-8")
    model = tiny.make_llama(folder / "model")
    only = "memory,quality"
    text_words = {"text": (str(text),), "batch_tokens": 256, "only": only}
    return {"model": str(model), "device": "cpu", **text_words}


def plan_of(words: dict[str, Any], out: Path) -> ComparePlan:
    return make_plan(VARIANTS, resolved(CompareOptions, {"out": out, **words}))


def values(comparison: Any) -> Any:
    return timeless(json.loads(render(comparison, "json")))


def test_shares_put_together_equal_one_pass(words: dict[str, Any], tmp_path: Path) -> None:
    local = evalkit.compare(*VARIANTS, out=tmp_path / "local", progress=ignore, **words)
    plan = plan_of(words, tmp_path / "shared")
    found = shards(plan.jobs, 3)
    assert [s.part.share for s in found if s.part.kind == "texts"] == 2 * [
        (0, 3), (1, 3), (2, 3), None,
    ]  # fmt: skip
    last: dict[str, float] = {}
    begun: dict[str, float] = {}

    def listen(event: Event) -> None:
        if event.stage == "scoring":
            begun.setdefault(key, event.done)
            last[key] = event.done

    for shard in found:
        key = f"{shard.job.variant.label} {shard.part.kind} {shard.part.share}"
        _run_parts(plan.jobs[0], shard.job, listen)
    for name in VARIANTS:
        pieces = [last[f"{name} texts {(i, 3)}"] for i in range(3)]
        assert min(pieces) > 0
        # The last task found everything scored.
        assert begun[f"{name} texts None"] == sum(pieces)
    assert values(run_plan(plan, ignore)) == values(local)
    assert not list(Store(plan.store).root.rglob("*share-*"))


@pytest.mark.slow
def test_what_a_lost_share_did_not_score_is_scored_in_the_end(
    words: dict[str, Any], tmp_path: Path
) -> None:
    local = evalkit.compare(*VARIANTS, out=tmp_path / "local", progress=ignore, **words)
    plan = plan_of(words, tmp_path / "shared")
    for shard in shards(plan.jobs, 3):
        if shard.part.share != (1, 3):
            _run_parts(plan.jobs[0], shard.job, ignore)
    assert values(run_plan(plan, ignore)) == values(local)


def test_a_last_task_waits_for_its_shares_and_variants_for_the_baseline(
    words: dict[str, Any], tmp_path: Path
) -> None:
    found = shards(plan_of(words, tmp_path).jobs, 2)
    names = [(s.job.variant.label, s.part.kind, s.part.share) for s in found]
    after = {name: {names[i] for i in s.after} for name, s in zip(names, found, strict=True)}
    both = [(0, 2), (1, 2)]
    assert after[("fp32", "texts", None)] >= {("fp32", "texts", share) for share in both}
    for share in both:
        assert after[("fp32", "texts", share)] == {("fp32", "memory", None)}
        assert ("fp32", "texts", None) in after[("fp16", "texts", share)]


def test_small_texts_are_one_share() -> None:
    assert share_count(100_000) == 1
    assert share_count(3 * cluster.SHARE_BYTES) == 3
    assert share_count(10**12) == cluster.MOST_SHARES


def with_tasks(jobs: Sequence[Job], tasks: int) -> list[Shard]:
    """The shards of `jobs`, each with as many tasks beside its memory and texts."""
    more = [
        dataclasses.replace(job, parts=(*job.parts, *(Part("task", job.parts[0].run, ()),) * tasks))
        for job in jobs
    ]
    return shards(more)


def test_one_worker_loads_a_variant_once(words: dict[str, Any], tmp_path: Path) -> None:
    found = with_tasks(plan_of(words, tmp_path).jobs, 4)
    waiting, groups = set(range(len(found))), []
    while waiting:
        groups.append(group(found, waiting, set(), 1))
        waiting -= set(groups[-1])
    assert groups == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_what_others_wait_for_ends_a_group_of_several_workers(
    words: dict[str, Any], tmp_path: Path
) -> None:
    found = with_tasks(plan_of(words, tmp_path).jobs, 4)
    waiting = set(range(12))
    # Both variants' first parts make a checkpoint, and the second's texts wait for the first's.
    assert group(found, waiting, set(), 2) == [0]
    assert group(found, waiting - {0}, {0}, 2) == [6]
    assert group(found, waiting - {0, 6}, {0, 6}, 2) == []
    assert group(found, waiting - {0, 6}, {6}, 2) == [1]
    assert group(found, waiting - {0, 1, 6}, {1, 6}, 2) == [2, 3, 4]
    assert group(found, {5, 7, 8, 9, 10, 11}, {1, 2, 3, 4}, 2) == [5]
    assert group(found, {7, 8, 9, 10, 11}, {1, 5}, 2) == [8, 9]
    assert group(found, {7, 8, 9, 10, 11}, {5}, 9) == [7]


def test_the_plan_says_how_texts_are_shared(words: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(words, tmp_path)
    large = dataclasses.replace(plan, ray="auto", text_bytes=5 * cluster.SHARE_BYTES)
    assert describe(large, ignore).shares == 5
    assert describe(plan, ignore).shares == 0
