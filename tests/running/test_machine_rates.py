"""A ceiling that is exceeded was measured too low: it is measured again, and never in silence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalkit.progress import ignore
from evalkit.records import Model
from evalkit.records.bench import Bench, BenchPoint, MachineRates
from evalkit.running.bench import machine_rates as rates_module
from evalkit.running.bench.machine_rates import machine_rates, measured_again
from evalkit.running.bench.summary import is_beyond, with_warnings
from evalkit.store.store import Store


def test_the_greater_of_two_measurements_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [MachineRates("m", 10.0, {"float32": 5.0}), MachineRates("m", 8.0, {"float32": 7.0})]
    monkeypatch.setattr(rates_module, "run_child", lambda *_, **__: now.pop(0))
    job: Any = SimpleNamespace(device="cpu", gpu="", environment=SimpleNamespace(machine="m"))
    store = Store(tmp_path).prepare()
    first = machine_rates(store, job, ignore)
    again = measured_again(store, job, first, ignore)
    assert (again.bandwidth, again.flops) == (10.0, {"float32": 7.0})
    assert machine_rates(store, job, ignore) == again


def point(bandwidth: float | None, flops: float | None) -> BenchPoint:
    return BenchPoint(
        "fp32", "fp32@transformers", "ok", "prefill", 1, 512, "eager", "Linear", "",
        bandwidth_utilization=bandwidth, flops_utilization=flops,
    )  # fmt: skip


def test_what_is_beyond_it_all_the_same_says_so() -> None:
    points = (point(None, None), point(0.9, 1.0), point(0.2, 1.07))
    assert [is_beyond(one) for one in points] == [False, False, True]
    bench = with_warnings(Bench(Model("m", "i"), None, points, 512, 64))
    assert [len(one.warnings) for one in bench.points] == [0, 0, 1]
    assert "beyond what was measured twice" in bench.points[2].warnings[0]
