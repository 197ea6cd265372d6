"""The ledger of flips: all of them, or evenly the first of each variant, task and direction."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import evalkit
from evalkit.backends import parse_variant
from evalkit.results.flips import RIGHT_TO_WRONG, _evenly, ledger
from evalkit.store.samples import SampleRecords
from evalkit.store.store import Store
from evalkit.view.report_flips import flip_section

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Store]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import report

    store = Store(tmp_path_factory.mktemp("flips")).prepare()
    report.fill(store, [parse_variant(v) for v in ("fp16", "int8", "int4")], tasks=2, items=900)
    return evalkit.load_comparison(store=store.root), store


def test_all_are_there_and_equal_those_of_the_comparison(found: tuple[Any, Store]) -> None:
    comparison, store = found
    flips, count = ledger(comparison, store)
    assert len(flips) == count
    counted = Counter((flip.variant, flip.task) for flip in flips)
    for row in comparison.rows[1:]:
        for task in ("task_00", "task_01"):
            flipped = row.metrics[f"{task}.flips"].value
            assert counted[row.variant.label, task] == flipped
    for flip in flips:
        assert (flip.baseline_margin > 0) == (flip.direction == RIGHT_TO_WRONG)
        assert (flip.variant_margin > 0) != (flip.direction == RIGHT_TO_WRONG)
        assert flip.target in flip.choices


def test_the_report_of_some_is_that_of_all(found: tuple[Any, Store]) -> None:
    comparison, store = found
    everything, count = ledger(comparison, store)
    some, counted = ledger(comparison, store, most=24)
    assert counted == count > 24
    assert 24 <= len(some) < count
    assert set(some) <= set(everything)
    groups = Counter((f.variant, f.task, f.direction) for f in some)
    assert max(groups.values()) - min(groups.values()) <= 1
    # Of each variant, task and direction the same come first.
    for key, number in groups.items():
        wanted = [f for f in everything if (f.variant, f.task, f.direction) == key][:number]
        assert [f for f in some if (f.variant, f.task, f.direction) == key] == wanted
    section = flip_section(comparison, some, count)
    assert section is not None
    assert (section.total, len(section.shown)) == (count, len(some))


def test_one_task(found: tuple[Any, Store]) -> None:
    flips, _ = ledger(*found, "task_01")
    assert {flip.task for flip in flips} == {"task_01"}


@pytest.mark.parametrize(
    ("sizes", "most", "each"), [([], 5, 0), ([3, 3], 100, 3), ([10, 1], 4, 3), ([10, 10], 4, 2)]
)
def test_evenly(sizes: list[int], most: int, each: int) -> None:
    assert _evenly(sizes, most) == each


def test_a_variant_that_was_asked_otherwise_has_no_flips(found: tuple[Any, Store]) -> None:
    comparison, store = found
    label = comparison.rows[1].variant.label
    for run_id in comparison.rows[1].runs:
        for file in store.raw(run_id).glob("samples-task_00.parquet"):
            records = SampleRecords.load(file)
            dataclasses.replace(records, head=dataclasses.replace(records.head, shots=5)).save(file)
    flips, _ = ledger(comparison, store)
    tasks = {variant: {f.task for f in flips if f.variant == variant} for variant in
             (label, comparison.rows[2].variant.label)}  # fmt: skip
    assert list(tasks.values()) == [{"task_01"}, {"task_00", "task_01"}]
