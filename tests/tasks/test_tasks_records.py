"""Sample records join by hash and refuse what differs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalkit.analysis.asked import asked_difference
from evalkit.errors import StoreError, UsageError
from evalkit.results.load_measured import asked_of
from evalkit.store.samples import (
    SampleHead,
    SampleRecords,
    TaskScore,
)


def records(count: int = 4, **changes: object) -> SampleRecords:
    """Records of a made-up task with a plain, a ratio and a corpus metric."""
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0][:count]
    pairs = [[-2.0 * n - 1, n + 1.0] for n in range(count)]
    table = pa.table(
        {
            "filter": ["none"] * count,
            "doc_id": pa.array(range(count), pa.int32()),
            "doc_hash": [f"d{n}" for n in range(count)],
            "prompt_hash": [f"p{n}" for n in range(count)],
            "target": [str(n % 2) for n in range(count)],
            "gold": pa.array([n % 2 for n in range(count)], pa.int32()),
            "cluster": pa.array([n // 2 for n in range(count)], pa.int32()),
            "choice_lengths": [[1, 9]] * count,
            "loglikelihoods": [[-1.0, -3.0]] * count,
            "metric:acc": values,
            "metric:word_perplexity": pairs,
            "metric:f1": [[1.0, 0.0]] * count,
        }
    )
    words = sum(pair[1] for pair in pairs)
    perplexity = math.exp(-sum(pair[0] for pair in pairs) / words)
    scores = (
        TaskScore("acc", "none", sum(values) / count, count, "mean", True),
        TaskScore("word_perplexity", "none", perplexity, count, "weighted_perplexity", False),
        TaskScore("f1", "none", 0.5, count, "f1", True),
    )
    head = SampleHead(
        "made_up",
        "1",
        "abc",
        "multiple_choice",
        0,
        "test",
        "here",
        "",
        {"fewshot": 1234},
        ("n",),
        scores,
    )
    for name, value in changes.items():
        if name in SampleHead.__dataclass_fields__:
            head = dataclasses.replace(head, **{name: value})
        else:
            place = table.column_names.index(name)
            table = table.set_column(place, name, [value])
    return SampleRecords(head, table)


def test_saved_records_come_back(tmp_path: Path) -> None:
    records().save(tmp_path / "s.parquet")
    back = SampleRecords.load(tmp_path / "s.parquet")
    assert back.head == records().head
    assert back.table.to_pylist() == records().table.to_pylist()


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(records().table, path)
    with pytest.raises(StoreError, match="holds no sample records"):
        SampleRecords.load(path)
    pq.write_table(records().table.replace_schema_metadata({"evalkit": '{"schema": "x"}'}), path)
    with pytest.raises(StoreError, match="not of the schema"):
        SampleRecords.load(path)


def test_values_of_plain_and_ratio_metrics() -> None:
    plain = records().items("acc")
    np.testing.assert_array_equal(plain.values, [1, 0, 1, 1])
    np.testing.assert_array_equal(plain.weights, 1)
    np.testing.assert_array_equal(plain.clusters, [0, 0, 1, 1])
    ratio = records().items("word_perplexity")
    np.testing.assert_array_equal(ratio.weights, [1, 2, 3, 4])
    assert ratio.score() == pytest.approx(math.exp(16 / 10))
    assert ratio.higher_is_better is False


def test_items_without_a_value_have_no_weight() -> None:
    one = records(**{"metric:acc": pa.array([1.0, None, 0.0, 1.0])})
    np.testing.assert_array_equal(one.items("acc").weights, [1, 0, 1, 1])
    assert one.items("acc").score() == pytest.approx(2 / 3)


def test_metrics_without_item_values_and_unknown_ones_are_refused() -> None:
    with pytest.raises(UsageError, match=r"made_up.f1 is aggregated by f1, not one of mean"):
        records().items("f1")
    with pytest.raises(UsageError, match=r"has no bleu \(none\): it has acc \(none\), word"):
        records().items("bleu")


def test_margins_compare_what_lm_eval_compares() -> None:
    np.testing.assert_allclose(records().margins("acc"), [2, -2, 2, -2])
    per_character = -1.0 - -3.0 / 9
    np.testing.assert_allclose(
        records().margins("acc_norm"),
        [per_character, -per_character, per_character, -per_character],
    )
    unknown = records(gold=pa.array([None, 0, 0, 0], pa.int32()))
    assert math.isnan(unknown.margins()[0])


def test_the_order_of_the_rows_plays_no_part() -> None:
    shuffled = SampleRecords(records().head, records().table.take([2, 0, 3, 1]))
    one, two = records().items("acc"), shuffled.items("acc")
    np.testing.assert_array_equal(one.doc_ids, two.doc_ids)
    np.testing.assert_array_equal(one.values, two.values)
    assert asked_of(records(), "none") == asked_of(shuffled, "none")


@pytest.mark.parametrize(
    "changes",
    [
        {"shots": 5},
        {"split": "validation"},
        {"chat": "x"},
        {"version": "2"},
        {"requests": "x"},
        {"doc_hash": ["d0", "d1", "X", "d3"]},
        {"prompt_hash": ["p0", "p1", "p2", "X"]},
        {"target": ["0", "1", "1", "1"]},
    ],
)
def test_what_was_asked_tells_records_apart(changes: dict[str, object]) -> None:
    assert asked_difference(asked_of(records(), "none"), asked_of(records(**changes), "none"))
