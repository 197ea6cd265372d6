"""What the machine was like while something was measured."""

from __future__ import annotations

import time
from collections import namedtuple

import psutil
import pytest

from evalkit.running import environment

Times = namedtuple("Times", "user system idle iowait guest guest_nice")


class Clock:
    """Two processors, of which others take `others` and this process `own`."""

    def __init__(self, own: float, others: float) -> None:
        self.now, self.own, self.others = 100.0, own, others

    def times(self) -> Times:
        busy = self.now * (self.own + self.others)
        return Times(busy, 0.0, 2 * self.now - busy, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("own", "others", "disturbed"), [(2.0, 0.0, False), (1.6, 0.4, False), (1.0, 1.0, True)]
)
def test_what_others_take(
    own: float, others: float, disturbed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(own, others)
    monkeypatch.setattr(psutil, "cpu_times", clock.times)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    monkeypatch.setattr(environment, "threads", lambda: 2)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(time, "process_time", lambda: clock.now * own)
    load = environment.Load()
    clock.now += 10
    assert load.others() == pytest.approx(others)
    assert load.disturbed() is disturbed
    assert bool(load.notes()) is disturbed
