"""The gate: the interval decides, not the point; what failed or was not measured does not pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from view.comparisons import comparison, standard_rows

import evalkit
from evalkit.analysis import gate
from evalkit.analysis.gate import Judgement, Limit
from evalkit.errors import UsageError
from evalkit.metrics import gate_limits
from evalkit.records import Comparison, Value, Verdict
from evalkit.view import render
from evalkit.view.gate import Judgements

LIMITS = gate_limits()


def parse_limits(words: dict[str, Any]) -> dict[str, float]:
    return {limit.name: bound for limit, bound in gate.parse_limits(words, LIMITS).items()}


def judge(one: Comparison, bounds: dict[str, float]) -> list[Judgement]:
    return gate.judge(one, {LIMITS[name]: bound for name, bound in bounds.items()})


def with_value(name: str, value: Value) -> Comparison:
    first, second, *_ = standard_rows()
    judged = Verdict("no loss", judged=(name,))
    changed = dataclasses.replace(second, metrics={**second.metrics, name: value}, verdict=judged)
    return comparison(first, changed)


def test_the_whole_interval_must_be_inside() -> None:
    value = Value(3.0, "", 9, 2.9, 3.1, 0.03, 0.01, 0.061, "worse", direction="lower")
    one = with_value("perplexity", value)
    base = 3.0 - 0.03
    assert judge(one, {"max_perplexity_increase": 0.061 / base + 1e-9})[0].passed
    assert not judge(one, {"max_perplexity_increase": 0.061 / base - 1e-9})[0].passed
    # The point alone is well inside.
    assert 0.03 / base < 0.061 / base - 1e-9


def test_a_task_may_lose_no_more_than_the_lower_end() -> None:
    value = Value(0.80, "", 500, 0.78, 0.82, 0.0, -0.012, 0.012, "inconclusive", direction="higher")
    one = with_value("arc_easy.acc", value)
    found = {j.metric: j.passed for j in judge(one, {"max_task_loss": 0.0121})}
    assert found["arc_easy.acc"]
    found = {j.metric: j.passed for j in judge(one, {"max_task_loss": 0.0119})}
    assert not found["arc_easy.acc"]


def test_speed_is_held_by_its_lower_end_and_memory_by_its_upper() -> None:
    speed = Value(50.0, "tokens/s", 5, 45.0, 55.0)
    assert judge(with_value("decode_tokens_per_second", speed), {"min_decode_speed": 45})[0].passed
    assert not judge(with_value("decode_tokens_per_second", speed), {"min_decode_speed": 46})[
        0
    ].passed
    memory = Value(7e9, "bytes", 1)
    assert judge(with_value("peak_memory_bytes", memory), {"max_memory": 7e9})[0].passed


def test_failed_rows_and_missing_metrics_do_not_pass() -> None:
    first, second, *_ = standard_rows()
    failed = dataclasses.replace(second, status="failed", message="no kernel", metrics={})
    (found,) = judge(comparison(first, failed), {"max_memory": 1e12})
    assert not found.passed
    assert "no kernel" in found.message
    bare = dataclasses.replace(second, metrics={})
    found_all = judge(comparison(first, bare), {"max_memory": 1e12, "max_task_loss": 1.0})
    assert [one.passed for one in found_all] == [False, False]


def test_limits_in_words() -> None:
    words = {"max-task-loss": "1pp", "max_memory": "8GB", "min_decode_speed": 40, "min_top1": "97%"}
    assert parse_limits(words) == {
        "max_task_loss": 0.01, "max_memory": 8e9, "min_decode_speed": 40.0, "min_top1": 0.97,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"max_tasks_loss": "1pp"}, "did you mean 'max_task_loss'"),
        ({"max_task_loss": "a lot"}, "write a number such as 1pp"),
        ({"max_task_loss": "-1pp"}, "a limit is 0 or more.*write a number such as 1pp"),
        ({"max_memory": "8 parsecs"}, "such as 8GB"),
        ({"max_memory": True}, "such as 8GB"),
        ({"max_memory": "-1GB"}, "such as 8GB"),
        ({}, "no limit given"),
    ],
)
def test_bad_limits_are_one_line(words: dict, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        parse_limits(words)


def test_a_file_of_limits_and_junit(tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text("max_memory: 1TB\nmax_size: 1kB\n")
    found = Judgements(tuple(evalkit.check(comparison(*standard_rows()), limits)))
    root = ElementTree.fromstring(render(found, "junit"))
    assert (root.get("tests"), root.get("failures")) == (str(len(found.items)), "2")
    assert render(found).count("FAIL") == 2
    limits.write_text("!!python/object/apply:os.system [true]")
    with pytest.raises(UsageError, match="is not YAML"):
        evalkit.check(comparison(*standard_rows()), limits)


def test_names_are_escaped_in_junit() -> None:
    first, second, *_ = standard_rows()
    hostile = dataclasses.replace(second, status="failed", message='<x y="1">\x1b[31m')
    page = render(Judgements(tuple(judge(comparison(first, hostile), {"max_size": 1.0}))), "junit")
    message = ElementTree.fromstring(page).find("testcase/failure").get("message")
    assert message == 'failed: <x y="1">'
    assert "\x1b" not in page


def test_a_unit_that_is_not_known_here_is_the_metrics_own() -> None:
    limit = Limit("max_heat", "heat", "3J", "Joules a token.", units=("J",))
    assert gate.parse_limits({"max_heat": "3.5J"}, {"max_heat": limit}) == {limit: 3.5}
    with pytest.raises(UsageError, match="write a number such as 3J"):
        gate.parse_limits({"max_heat": "3"}, {"max_heat": limit})


@pytest.mark.parametrize(
    ("name", "value", "limit", "words"),
    [
        ("peak_memory_bytes", Value(2.34619e7, "bytes", 1), {"max_memory": 8e9},
         "peak_memory_bytes: upper end of the interval 23.5 MB, allowed at most 8.0 GB"),
        ("top1_agreement", Value(0.98, "", 9, 0.9712, 0.99), {"min_top1": 0.97},
         "top1_agreement: lower end of the interval 97.12 %, allowed at least 97.00 %"),
        ("decode_tokens_per_second", Value(50.0, "tokens/s", 5, 45.0, 55.0),
         {"min_decode_speed": 40.0},
         "decode_tokens_per_second: lower end of the interval 45.0 tok/s, allowed at least 40.0"
         " tok/s"),
        ("kl_divergence_mean", Value(0.04, "nats", 9, 0.03, 0.05), {"max_kl": 0.05},
         "kl_divergence_mean: upper end of the interval 0.0500 nats, allowed at most 0.0500 nats"),
        ("arc_easy.acc", Value(0.8, "", 500, 0.78, 0.82, 0, -0.012, 0.012, direction="higher"),
         {"max_task_loss": 0.02},
         "arc_easy.acc: largest loss not ruled out + 1.20 pp, allowed at most + 2.00 pp"),
        ("arc_easy.acc", Value(0.8, "", 500, 0.78, 0.82, 0, -0.012, 0.012, "no loss",
                               {"noise_floor": 0.015}, direction="higher"),
         {"max_task_loss": 0.01},
         "arc_easy.acc: largest loss not ruled out + 1.20 pp, noise floor + 1.50 pp, allowed at"
         " most + 1.00 pp"),
    ],
)  # fmt: skip
def test_messages_carry_units_and_readable_digits(
    name: str, value: Value, limit: dict[str, float], words: str
) -> None:
    (found,) = judge(with_value(name, value), limit)
    assert found.message == words
    assert found.passed
