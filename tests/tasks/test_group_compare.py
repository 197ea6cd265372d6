"""A group through `compare`: its score beside those of its tasks, counted once."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from task_helpers import CHOICE_YAML, choice_rows, write_jsonl

import evalkit
from evalkit.view.report_tables import tasks_table


@pytest.mark.usefixtures("registry_home")
def test_a_group_is_a_line_of_its_own_and_counted_once(tmp_path: Path) -> None:
    for name, count in (("a", 4), ("b", 8)):
        text = CHOICE_YAML.format(name=f"pair_{name}")
        (tmp_path / "yaml").mkdir(exist_ok=True)
        (tmp_path / f"yaml/pair_{name}.yaml").write_text(text, encoding="utf-8")
        write_jsonl(tmp_path / f"data/tasks/pair_{name}/test.jsonl", choice_rows(count, 7 * count))
    (tmp_path / "yaml/pair.yaml").write_text(
        "group: pair\ntask: [pair_a, pair_b]\naggregate_metric_list:\n"
        "  - metric: acc\n    weight_by_size: true\n",
        encoding="utf-8",
    )
    result = evalkit.compare(
        "fp32", "fp16", model=str(tiny.make_llama(tmp_path / "model")), tasks="pair",
        data=tmp_path / "data", include_path=tmp_path / "yaml", out=tmp_path / "store",
    )  # fmt: skip
    for row in result.rows:
        assert row.status == "ok", row.message
        parts = [row.metrics[f"pair_{name}.acc"] for name in "ab"]
        group = row.metrics["pair.acc"]
        assert group.n == 12 == sum(part.n for part in parts)
        right = sum((part.value or 0) * part.n for part in parts)
        assert group.value == pytest.approx(right / 12)
        assert row.metrics["tasks_mean"].details["tasks"] == 2
    assert group.delta is not None
    table = tasks_table(result)
    assert table is not None
    assert [line.task for line in table.lines] == ["pair_a", "pair_b", "pair"]
