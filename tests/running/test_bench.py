"""evalkit bench from words to a record: rounds in turn, resumed, failures as points."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch

import evalkit
from evalkit.declaration import resolved
from evalkit.errors import UsageError
from evalkit.inference import timing
from evalkit.options import BenchOptions
from evalkit.progress import ignore
from evalkit.records.bench import Bench
from evalkit.running.bench import round as round_module
from evalkit.running.bench.plan import engine_names, make_bench_plan
from evalkit.running.sensors import Reading
from evalkit.view import render
from evalkit.view.bench import heading

WORDS = {"prompt": 16, "generate": 8, "rounds": 2, "repetitions": 2, "progress": ignore}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def found(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    store = tmp_path_factory.mktemp("store")
    return evalkit.bench(
        "fp32", "fp16", "int4@gptq", model=str(model), batch_sizes=[1, 2], contexts=[32], out=store,
        **WORDS,
    )  # fmt: skip


def test_every_setting_of_every_variant_is_a_point(found: Bench) -> None:
    for variant in ("fp32", "fp16"):
        points = [p for p in found.points if p.variant == variant]
        assert [(p.phase, p.batch_size, p.context) for p in points] == [
            ("prefill", 1, 16), ("decode", 1, 16), ("prefill", 2, 16), ("decode", 2, 16),
            ("prefill", 1, 32), ("decode", 1, 32),
        ]  # fmt: skip
        for point in points:
            assert point.status == "ok"
            assert (point.n, len(point.rounds)) == (4, 2)
            # Two rounds give no interval.
            assert point.low is None and point.high is None
            assert point.tokens_per_second > 0
            assert point.latency_ms_p50 <= point.latency_ms_p95 <= point.latency_ms_p99
            assert point.engine == "eager"
            assert 0 < point.bandwidth_utilization < 1
            assert 0 < point.flops_utilization < 1
            assert point.peak_memory_bytes > 0
    assert found.knee["fp32"] in (1, 2)
    assert {p.kernel for p in found.points if p.status == "ok"} == {
        "Linear (float32)", "Linear (float16)",
    }  # fmt: skip


def test_a_variant_that_cannot_be_made_is_a_point_that_says_why(found: Bench) -> None:
    (point,) = (p for p in found.points if p.variant == "int4@gptq")
    assert point.status == "failed"
    assert "group_size" in point.message or "calibration" in point.message
    assert point.tokens_per_second is None


def test_memory_is_measured_beside_the_plan(found: Bench) -> None:
    use = next(u for u in found.memory if (u.variant, u.batch_size, u.context) == ("fp32", 2, 16))
    # 2 layers, 2 key/value heads of width 16, keys and values, 24 tokens, 2 sequences, float32.
    assert use.kv_cache == 2 * 2 * 2 * 16 * (16 + 8) * 2 * 4
    assert {"load resident", "prefill resident", "decode resident"} == set(use.peaks)
    assert use.planned > sum(use.weights.values())


def test_finished_rounds_are_not_measured_again(found: Bench, model: Path) -> None:
    again = evalkit.bench(
        "fp32", "fp16", "int4@gptq", model=str(model), batch_sizes=[1, 2], contexts=[32],
        out=found.store, **WORDS,
    )  # fmt: skip
    assert again.points == found.points
    assert evalkit.load_bench(store=found.store) == again


def test_json_is_the_documented_object(found: Bench) -> None:
    content = json.loads(render(found, "json"))
    assert content["schema"] == "evalkit.bench/1"
    assert len(content["rows"]) == len(found.points)
    wanted = {
        "variant", "status", "kernel", "engine", "phase", "batch_size", "context",
        "tokens_per_second", "low", "high", "n", "latency_ms_p50", "latency_ms_p95",
        "bandwidth_utilization", "peak_memory_bytes",
    }  # fmt: skip
    assert wanted <= set(content["rows"][0])
    failed = next(row for row in content["rows"] if row["status"] == "failed")
    assert failed["tokens_per_second"] is None


def test_the_table_names_what_ran_and_what_is_not_available(found: Bench) -> None:
    text = render(found)
    assert "ran: fp32 Linear (float32), eager" in text
    assert "not available" in text
    assert render(found, "markdown").count("|") > 50
    assert render(found, "csv").count("\n") == len(found.points) + 1


def test_random_weights_need_only_a_configuration(model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    bench = evalkit.bench(
        "fp32", model=str(tmp_path), weights="random", batch_sizes="1", out=tmp_path / "store",
        **(WORDS | {"rounds": 1}),
    )  # fmt: skip
    assert all(point.status == "ok" for point in bench.points)
    assert bench.points[0].low is None
    assert "random weights" in " ".join(heading(bench))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"batch_sizes": "1,x"}, "--batch-sizes"),
        ({"batch_sizes": [0]}, "--batch-sizes"),
        ({"prompt": 128}, "beyond the model's 128 positions: give from 1 to 96"),
        ({"contexts": (500,)}, "--contexts 500"),
        ({"engine": "warp"}, "unknown engine 'warp'"),
        ({"engine": "graph", "device": "cpu"}, "needs CUDA"),
        ({"rounds": 0}, "--rounds 0"),
        ({"weights": "heavy"}, "--weights 'heavy'"),
        ({"variants": ()}, "no variant given"),
    ],
)
def test_bad_words_are_one_line(model: Path, tmp_path: Path, words: dict, line: str) -> None:
    given = {"model": str(model), "out": tmp_path} | words
    variants = given.pop("variants", ("fp32",))
    with pytest.raises(UsageError) as error:
        make_bench_plan(variants, resolved(BenchOptions, given))
    assert line in str(error.value)


def test_auto_tries_compilation_only_where_it_is_quick() -> None:
    assert engine_names("auto", "cpu") == ("eager",)
    assert engine_names("auto", "cuda") == ("eager", "graph", "compile")


@pytest.mark.parametrize(("text", "expected"), [("10m", 600), ("90s", 90), ("1h", 3600), (5, 5)])
def test_times_in_words(text: str | int, expected: float) -> None:
    from evalkit.options import seconds

    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["ten", "-5s", "", "5x", "nan"])
def test_times_that_are_none(text: str) -> None:
    from evalkit.options import seconds

    with pytest.raises(UsageError, match="such as 90s"):
        seconds(text)


class Clock:
    """A clock that only the work moves, and a counter of 100 W that ticks each `tick` seconds."""

    def __init__(self, tick: float | None) -> None:
        self.now, self.tick = 0.0, tick

    def work(self, seconds: float) -> float:
        self.now += seconds
        return seconds

    def sensors(self) -> Reading:
        if self.tick is None:
            return Reading(tick=0.1, at=self.now)
        return Reading(100 * (self.now // self.tick) * self.tick, tick=self.tick, at=self.now)


@pytest.mark.parametrize(
    # Seconds of a pass, of the counter's tick, and whether the passes can be counted within 20 s.
    ("seconds", "tick", "passes", "counted"),
    [
        (2**-7, 2**-3, 131, True),
        (2**-1, 2**-3, 3, True),
        (2**-7, 2**-10, 3, True),
        (2**-7, None, 3, False),
        (2**-7, 4.0, 2561, False),
    ],
)
def test_short_passes_are_repeated_until_their_energy_can_be_counted(
    seconds: float, tick: float | None, passes: int, counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, ids = Clock(tick), torch.zeros((2, 5), dtype=torch.long)
    monkeypatch.setattr(timing, "time_prefill", lambda *_: (clock.work(seconds), None))
    monkeypatch.setattr(timing, "time_steps", lambda *_: (clock.work(8 * seconds),))
    monkeypatch.setattr(round_module.time, "perf_counter", lambda: clock.now)
    bench: Any = SimpleNamespace(
        sensors=clock.sensors, round=SimpleNamespace(repetitions=3, generate=8)
    )
    found, joules = round_module._Bench._read_prompts(bench, None, ids)
    assert found == [seconds] * 3
    assert clock.now == passes * seconds
    expected = 100 * seconds / 10 if counted else None
    assert joules == (expected and pytest.approx(expected, rel=0.1))
    runs, joules = round_module._Bench._decode(bench, None, ids)
    assert runs == [(8 * seconds,)] * 3
    assert joules == (expected and pytest.approx(5 * expected, rel=0.1))
