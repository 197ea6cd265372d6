"""What metrics declare beside their values: columns of the table and limits of the gate."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from evalkit import metrics
from evalkit.errors import EvalkitError
from evalkit.metrics import gate_limits, table_columns
from evalkit.records import Column, from_json, to_json


def test_the_columns_in_the_order_of_the_table() -> None:
    assert [column.title for column in table_columns()] == [
        "size", "peak", "prefill", "decode", "perplexity", "KL", "top-1", "bits",
        "tasks, paired",
    ]  # fmt: skip
    for column in table_columns():
        assert from_json(Column, to_json(column)) == column


def test_every_limit_has_an_example_that_can_be_written() -> None:
    from evalkit.analysis.gate import parse_limits

    known = gate_limits()
    assert set(known) == {
        "max_perplexity_increase", "max_task_loss", "max_kl", "min_top1", "max_memory", "max_size",
        "min_decode_speed", "min_prefill_speed",
    }  # fmt: skip
    for name, limit in known.items():
        assert limit.at_least == name.startswith("min_")
        assert limit.help.endswith(".")
        assert parse_limits({name: limit.example}, known)[limit] > 0


def test_a_limit_is_declared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one: Any = SimpleNamespace(__name__="other.metric", LIMITS=(gate_limits()["max_kl"],))
    known = metrics._modules()
    monkeypatch.setattr(metrics, "_modules", lambda: [*known, one])
    with pytest.raises(EvalkitError, match=r"^other\.metric declares the limit max_kl again"):
        gate_limits()


def test_limits_are_listed_without_torch() -> None:
    code = (
        "import sys; from evalkit.metrics import gate_limits, table_columns; gate_limits();"
        "table_columns(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bytes_are_counted_before_anything_runs() -> None:
    """Some kernels repack their weights at the first pass."""
    from evalkit.running.compare.worker import _probing

    assert next(name for name, _ in _probing()) == "size"
