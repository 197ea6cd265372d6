"""Sustained load: held or not, throttled when and by what, steady from when."""

from __future__ import annotations

from evalkit.analysis.soak import judge
from evalkit.records.bench import SoakSample


def samples(speeds: list[float], throttled_from: int | None = None) -> list[SoakSample]:
    return [
        SoakSample(
            seconds=float(second),
            tokens_per_second=speed,
            throttle=("power cap",)
            if throttled_from is not None and second >= throttled_from
            else (),
        )
        for second, speed in enumerate(speeds, 1)
    ]


def test_a_speed_that_holds() -> None:
    found = judge("int4", 8, samples([100.0, 101.0, 99.0] * 20))
    assert found.held
    assert found.throttled_after is None
    assert found.steady_after == 1.0
    assert (found.variant, found.batch_size) == ("int4", 8)


def test_a_card_that_throttles_and_settles() -> None:
    speeds = [100.0] * 20 + [95.0, 90.0, 85.0] + [80.0] * 37
    found = judge("fp16", 1, samples(speeds, throttled_from=21))
    assert not found.held
    assert (found.first, found.last) == (100.0, 80.0)
    assert (found.throttled_after, found.throttled_by) == (21.0, ("power cap",))
    assert 23 <= found.steady_after <= 25


def test_a_speed_that_still_falls_is_not_steady() -> None:
    found = judge("fp16", 1, samples([100.0 - second for second in range(60)]))
    assert not found.held
    assert found.steady_after is None or found.steady_after > 55


def test_one_outlier_does_not_unsettle() -> None:
    assert judge("fp16", 1, samples([100.0] * 30 + [50.0] + [100.0] * 30)).steady_after == 1.0
