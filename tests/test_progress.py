"""How far everything is and how long the rest takes, on a fake clock; and the lines of a pipe."""

from __future__ import annotations

import pytest

from evalkit import cli
from evalkit.errors import UsageError
from evalkit.progress import Event, Planned, ignore, live
from evalkit.progress.forecast import Forecast
from evalkit.progress.lines import Lines

PLAN = tuple(
    Planned(variant, step, seconds)
    for variant in ("fp16", "int8", "int4")
    for step, seconds in (("loading", 10.0), ("texts", 40.0))
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_rest_is_corrected_by_what_was_finished(clock: Clock) -> None:
    forecast = Forecast(clock)
    assert forecast.left() is None
    forecast.hear(Event("evalkit", "", message="three variants", plan=PLAN))
    assert forecast.left() == pytest.approx(150)
    forecast.hear(Event("fp16", "loading"))
    assert forecast.name == "variant 1 of 3, fp16: loading"
    clock.now += 20
    forecast.hear(Event("fp16", "texts"))
    # Loading took twice as long as expected, and so may all the rest.
    assert forecast.left() == pytest.approx(80 + 2 * (20 + 80))
    clock.now += 10
    forecast.hear(Event("fp16", "scoring", 500, 1000, "tokens", step="texts"))
    assert forecast.name == "variant 1 of 3, fp16: texts"
    assert forecast.detail() == "500 of 1,000 tokens"
    clock.now += 10
    forecast.hear(Event("fp16", "scoring", 1000, 1000, "tokens", step="texts"))
    forecast.hear(Event("int8", "starting", step="loading"))
    # Texts took half of what was expected, which counts for texts alone.
    assert forecast.left() == pytest.approx(20 + 20 + 20 + 20)
    assert forecast.name == "variant 2 of 3, int8: loading"
    assert forecast.outlook() == "40 s gone, about 1 min 20 s left"


def test_one_step_that_takes_far_longer_does_not_make_all_others_so_long(clock: Clock) -> None:
    """Of a tiny model the first speed took fourteen times as long, and "20 min left" was said."""
    plan = tuple(Planned("fp16", step, seconds) for step, seconds in (("speed", 1), ("texts", 40)))
    forecast = Forecast(clock)
    forecast.hear(Event("evalkit", "", plan=plan))
    forecast.hear(Event("fp16", "speed"))
    clock.now += 14
    forecast.hear(Event("fp16", "texts"))
    assert forecast.left() == pytest.approx(3 * 40)


def test_a_stage_without_a_plan_of_its_own_stays_in_its_step(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.hear(Event("evalkit", "", message="", plan=PLAN))
    assert forecast.hear(Event("int8", "loading"))
    assert not forecast.hear(Event("int8", "building a kernel", 3, 60, "s"))
    assert forecast.name == "variant 2 of 3, int8: loading"
    assert forecast.hear(Event("evalkit", "reading texts"))
    assert forecast.name == "evalkit: reading texts"


def test_a_pipe_gets_a_line_at_each_end_and_every_thirty_seconds(clock: Clock) -> None:
    said: list[str] = []
    lines = Lines(said.append, clock)
    lines(Event("evalkit", "", message="3 variants", plan=PLAN))
    lines(Event("fp16", "loading"))
    clock.now += 10
    lines(Event("fp16", "scoring", 0, 1000, "tokens", step="texts"))
    for second in range(65):
        clock.now += 1
        lines(Event("fp16", "scoring", 10 * second, 1000, "tokens", step="texts"))
        lines.tick()
    lines.close()
    assert said[:4] == [
        "evalkit: 3 variants",
        "variant 1 of 3, fp16: loading …",
        "variant 1 of 3, fp16: loading: done in 10 s; 10 s gone, about 2 min 20 s left",
        "variant 1 of 3, fp16: texts …",
    ]
    assert said[4].startswith("variant 1 of 3, fp16: texts: 290 of 1,000 tokens; 40 s gone, about")
    assert said[5].startswith("variant 1 of 3, fp16: texts: 590 of 1,000 tokens; ")
    assert said[6:] == ["variant 1 of 3, fp16: texts: done in 1 min 5 s"]


def test_what_came_before_the_first_step_ends_with_the_plan(clock: Clock) -> None:
    said: list[str] = []
    lines = Lines(said.append, clock)
    lines(Event("evalkit", "measuring the machine"))
    clock.now += 40
    lines.tick()
    lines(Event("evalkit", "", message="3 variants", plan=PLAN))
    assert said == [
        "evalkit: measuring the machine …",
        "evalkit: measuring the machine: done in 40 s; 1 s gone, about 2 min 30 s left",
        "evalkit: 3 variants",
    ]


def test_what_was_not_planned_is_told_when_it_takes_longer_than_a_moment(clock: Clock) -> None:
    said: list[str] = []
    lines = Lines(said.append, clock)
    lines(Event("evalkit", "looking up tasks"))
    lines.tick()
    lines(Event("int4", "round 1"))
    clock.now += 0.5
    lines.tick()
    assert said == []
    clock.now += 1.5
    lines.tick()
    clock.now += 31
    lines.tick()
    assert said == ["int4: round 1 …", "int4: round 1: for 33 s"]
    lines(Event("int4", "loading"))
    assert said[2:] == ["int4: round 1: done in 33 s"]


def test_live_says_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with live() as listener:
        listener(Event("evalkit", "", message="1 variant \x1b[2J", plan=PLAN[:1]))
        listener(Event("fp16", "loading"))
    assert capsys.readouterr().err.splitlines() == [
        "evalkit: 1 variant",
        "variant 1 of 1, fp16: loading …",
        "variant 1 of 1, fp16: loading: done in 1 s",
    ]
    with live(show=False) as listener:
        listener(Event("fp16", "loading"))
        listener(Event("fp16", "", message="a note"))
    assert capsys.readouterr().err == "fp16: a note\n"


def test_quiet_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*variants: str, progress: object, **options: object) -> None:
        assert progress is ignore
        raise UsageError("an error is said all the same")

    for command in ("compare", "bench"):
        monkeypatch.setattr(f"evalkit.api.{command}", refuse)
        with pytest.raises(SystemExit):
            cli.main([command, "fp32", "--quiet"])
    assert capsys.readouterr().err.count("an error is said all the same") == 2
