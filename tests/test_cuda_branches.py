"""What is done otherwise on a card, each reached with answers as a card gives them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from scoring_models import build

from evalkit.analysis.footprint import CPU, CUDA, Runtime
from evalkit.backends import _bitsandbytes, parse_variant
from evalkit.inference import extending, timing
from evalkit.metrics import memory
from evalkit.metrics.memory import PeakMeter, level_before_loading
from evalkit.models import offload
from evalkit.models.compute import for_scoring
from evalkit.running.bench import machine_rates, summary
from evalkit.running.bench.round import _advance, _Bench
from evalkit.running.doctor.checks import everything_is_on_the_device
from evalkit.scoring.statistics import same_top1
from evalkit.scoring.token_statistics import TokenStatistics

FREE, TOTAL = 20 * 10**9, 24 * 10**9


class Stream:
    """A stream in which each step takes 2 ms, and what was asked of it in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.now = 0.0

    def synchronize(self, *_: Any) -> None:
        self.asked.append("synchronize")

    def event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        made = SimpleNamespace(at=0.0)

        def record() -> None:
            made.at, self.now = self.now, self.now + 2.0
            self.asked.append("record")

        made.record = record
        made.elapsed_time = lambda later: later.at - made.at
        return made


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    found = Stream()
    monkeypatch.setattr(torch.cuda, "synchronize", found.synchronize)
    monkeypatch.setattr(torch.cuda, "Event", found.event)
    return found


def test_steps_queue_up_between_events_and_are_waited_for_once(stream: Stream) -> None:
    tokens: Any = SimpleNamespace(device=torch.device("cuda"))
    engine: Any = SimpleNamespace(step=lambda given: given, start=lambda ids: ids)
    assert timing.time_steps(engine, tokens, 3) == (0.002, 0.002, 0.002)
    assert stream.asked == ["synchronize", *["record"] * 4, "synchronize"]
    assert timing.time_prefill(engine, tokens) == (0.002, tokens)


def test_a_step_of_a_soak_has_finished_when_it_returns(stream: Stream) -> None:
    tokens: Any = SimpleNamespace(device=torch.device("cuda"))
    assert _advance(SimpleNamespace(step=lambda given: given), tokens) is tokens
    assert stream.asked == ["synchronize"]


def test_a_rate_is_read_when_the_product_is_done(stream: Stream) -> None:
    runs: list[int] = []
    assert machine_rates._best(lambda: runs.append(1), "cuda") >= 0
    # One warm-up, which is not timed; each other is waited for.
    assert len(stream.asked) == len(runs) - 1 == machine_rates._REPEATS


def test_peaks_on_a_card_are_those_of_torch_and_of_the_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reset: list[str] = []
    for name, answer in {
        "reset_peak_memory_stats": lambda *_: reset.append("reset"),
        "mem_get_info": lambda *_: (FREE, TOTAL),
        "max_memory_allocated": lambda *_: 3 * 10**9,
        "max_memory_reserved": lambda *_: 4 * 10**9,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    meter = PeakMeter("cuda", 0)
    meter.reset()
    assert reset == ["reset"]
    assert meter.peaks() == {"allocated": 3e9, "reserved": 4e9, "used": TOTAL - FREE}
    assert meter.main() == 3e9
    assert level_before_loading("cuda") == 0


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:1", 1)])
def test_offloading_fills_most_of_what_the_card_has_free(
    monkeypatch: pytest.MonkeyPatch, device: str, number: int
) -> None:
    asked: list[Any] = []

    def free(card: Any = None) -> tuple[int, int]:
        asked.append(card)
        return FREE, TOTAL

    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    room = offload.placement(device)["max_memory"]
    assert asked == [number]
    assert room[number] == int(0.7 * FREE)
    assert set(room) == {"cpu", number}


def test_a_card_computes_statistics_of_many_more_rows_at_once() -> None:
    there = TokenStatistics({"nll"}, 100_352, torch.device("meta"))
    assert there.rows == 2**27 // (4 * 100_352)


def test_a_card_finds_the_largest_logit_by_itself() -> None:
    made: list[str] = []

    class Logits(torch.Tensor):
        """Logits that say they lie on a card, and tell what is called."""

        @property
        def device(self) -> Any:
            return SimpleNamespace(type="cuda")

        def argmax(self, *given: Any, **words: Any) -> Any:
            made.append("argmax")
            return torch.Tensor.argmax(self.as_subclass(torch.Tensor), *given, **words)

    values = torch.randn(3, 4096, generator=torch.Generator().manual_seed(0))
    found = same_top1._top1(values.as_subclass(Logits))
    assert made == ["argmax"]
    assert torch.equal(found.as_subclass(torch.Tensor), same_top1._top1(values))


def test_main_memory_counts_as_offloaded_only_beside_a_card() -> None:
    beside = SimpleNamespace(hf_device_map={"layers.0": 0, "layers.1": "cpu", "head": "disk"})
    assert offload.offloaded(beside) == {"cpu": 1, "disk": 1}
    alone = SimpleNamespace(hf_device_map={"layers.0": "cpu", "layers.1": "disk"})
    assert offload.offloaded(alone) == {"disk": 1}


@pytest.mark.parametrize(("device", "ends"), [("cuda", False), ("cpu", True)])
def test_a_sweep_ends_before_memory_does_on_a_cpu_only(
    device: str, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10))
    bench: Any = SimpleNamespace(
        round=SimpleNamespace(job=SimpleNamespace(device=device)), peaks={"1 512": {"used": 1e6}}
    )
    if ends:
        with pytest.raises(MemoryError, match="batch 8 needs about"):
            _Bench._check_room(bench, 8)
    else:
        _Bench._check_room(bench, 8)


def test_memory_of_a_card_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    phases = {"prefill": {"allocated": 7.0, "used": 9.0}, "decode": {"allocated": 6.0}}
    monkeypatch.setattr(memory, "phase_peaks", lambda *_: phases)
    probe: Any = SimpleNamespace(
        model=build("llama-tied"), device="cuda", resident_before=0,
        load_peaks={"allocated": 8.0}, protocol=SimpleNamespace(prompt=4),
        check_runs_here=lambda: None,
    )  # fmt: skip
    (found,) = memory.measure(probe)
    assert (found.values, found.convention) == ((8.0,), "CUDA allocated")


@pytest.mark.parametrize(("device", "runtime"), [("cuda", CUDA), ("cpu", CPU)])
def test_planned_memory_is_that_of_the_device(
    device: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def planned(*_: Any, runtime: Runtime) -> Any:
        asked.append(runtime)
        return SimpleNamespace(total=5.0)

    monkeypatch.setattr(summary, "memory", planned)
    shapes: Any = SimpleNamespace(of=lambda _: (None, None), device=device)
    first = SimpleNamespace(peaks={"1 16": {}}, load_peaks={}, weights={}, kv_cache={})
    one: Any = SimpleNamespace(
        rounds=[first], job=SimpleNamespace(variant=SimpleNamespace(label="fp16"))
    )
    assert [use.planned for use in summary._memory(one, shapes)] == [5.0]
    assert asked == [runtime]


def test_a_module_in_main_memory_is_offloaded_beside_a_card_only() -> None:
    loaded: Any = SimpleNamespace(
        variant=parse_variant("fp16"),
        model=SimpleNamespace(hf_device_map={"head": "cpu"}, named_parameters=list),
        device="cuda:0",
    )
    (found,) = everything_is_on_the_device(loaded)
    assert "head on cpu" in str(found)
    loaded.device = "cpu"
    assert list(everything_is_on_the_device(loaded)) == []


def test_quality_on_a_card_is_measured_on_what_was_loaded() -> None:
    loaded: Any = SimpleNamespace(
        model=build("llama-tied").half(), formats=(), notes=(), scoring=None
    )
    assert for_scoring(loaded, "cuda") is loaded


def test_drawing_on_a_card_leaves_its_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    forked: list[Any] = []

    def stop(devices: Any) -> None:
        forked.append(devices)
        raise InterruptedError

    monkeypatch.setattr(torch.random, "fork_rng", stop)
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: None)
    row: Any = SimpleNamespace(prompt=[1, 2])
    model: Any = SimpleNamespace(device=torch.device("cuda", 0))
    with pytest.raises(InterruptedError):
        extending.extend_alone(model, SimpleNamespace(), row, SimpleNamespace(), False)  # type: ignore[arg-type]
    assert forked == [[torch.device("cuda", 0)]]


@pytest.mark.parametrize(("device", "words"), [("cuda", "(float16)"), ("cpu", "(bfloat16, fused)")])
def test_the_fused_kernel_of_four_bits_is_a_cpus(device: str, words: str) -> None:
    layer = SimpleNamespace(
        weight=SimpleNamespace(device=torch.device(device), quant_type="nf4"),
        support_avx512bf16_for_cpu=True,
        compute_dtype=torch.float16,
    )
    assert _bitsandbytes._kernel_4bit(layer, torch.float16).endswith(words)
