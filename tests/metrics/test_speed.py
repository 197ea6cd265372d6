"""Speed within its seconds: repeated until it is known, shorter where it would take too long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import LlamaConfig

from evalkit.analysis.samples import median_interval
from evalkit.inference import timing
from evalkit.inference.timing import GenerationTime
from evalkit.metrics import Probe, Protocol, speed


class Machine:
    """Generations on a fake clock: seconds of a token of prompt and of generation, in turn."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, token: float, drift: float = 0.0
    ) -> None:
        self.now, self.token, self.drift = 0.0, token, drift
        self.asked: list[tuple[int, int]] = []
        monkeypatch.setattr(timing, "time_generation", self.generate)
        monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def generate(self, model: Any, prompt: int, generate: int) -> GenerationTime:
        self.asked.append((prompt, generate))
        seconds = self.token * (1 + self.drift * (len(self.asked) % 2))
        found = GenerationTime(seconds * prompt, (seconds,) * generate)
        self.now += found.prefill + found.decode
        return found


def probe(**protocol: Any) -> tuple[Probe, list[tuple[float, float, str]]]:
    model = SimpleNamespace(config=LlamaConfig(max_position_embeddings=4096))
    told: list[tuple[float, float, str]] = []
    made = Probe(
        model, "cpu", "", Protocol(**protocol), 0, {}, advance=lambda *far: told.append(far)
    )
    return made, told


def test_what_is_steady_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, token=1e-3)
    one, told = probe()
    prefill, decode = speed.measure(one)
    assert len(prefill.values) == len(decode.values) == len(told) == 5
    assert prefill.values[0] == pytest.approx(1000)
    assert prefill.convention == "batch 1, prompt 512, generated 64, eager"
    assert "note" not in prefill.details


def test_what_is_unsteady_is_repeated_within_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, token=2e-3, drift=0.3)
    one, told = probe(seconds=15.0)
    assert len(speed.measure(one)[0].values) > 5
    assert machine.now <= 15.5 and told[-1][1:] == (15.0, "s")
    Machine(monkeypatch, token=1e-6, drift=0.3)
    assert len(speed.measure(one)[0].values) == 20


def test_a_slow_variant_reads_shorter_prompts_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 on a CPU: 69 tokens a second took minutes."""
    machine = Machine(monkeypatch, token=1 / 30)
    prefill, decode = speed.measure(probe()[0])
    assert machine.now <= 25 and len(prefill.values) >= 2
    assert machine.asked[-1] == (128, 64)
    assert "prompt 128, generated 64" in decode.convention
    assert "which would take too long for --speed-seconds 20" in prefill.details["note"]
    assert prefill.details["lengths"] == [128, 64]


def test_a_variant_is_measured_with_the_prompts_of_its_baseline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch, token=1e-4)
    prefill, _ = speed.measure(probe(speed=(128, 64))[0])
    assert machine.asked[-1] == (128, 64) and "note" not in prefill.details


def test_the_median_of_many_is_known_better_than_their_range() -> None:
    assert median_interval((1.0, 2.0, 3.0, 4.0, 5.0)) == median_interval((5.0, 4.0, 3.0, 2.0, 1.0))
    five = median_interval((1.0, 2.0, 3.0, 4.0, 5.0))
    assert (five.low, five.high) == (1.0, 5.0)
    twenty = median_interval(tuple(map(float, range(20))))
    # 95.9 % by the binomial distribution of 20 fair coins.
    assert (twenty.estimate, twenty.low, twenty.high) == (9.5, 5.0, 14.0)
