"""The doctor of a machine: each broken one is told by its fault, with what mends it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalkit.cli import main
from evalkit.declaration import resolved
from evalkit.errors import ModelError, UsageError
from evalkit.models import hub
from evalkit.options import CompareOptions
from evalkit.records.findings import MachineCheck
from evalkit.running import build_job, defaults
from evalkit.running.doctor import machine
from evalkit.running.doctor.machine import refuse_unready, report, runs_on
from evalkit.running.doctor.machine_facts import CardFacts, Facts
from evalkit.running.gpus import Gpu
from evalkit.view import render

GPU = Gpu("NVIDIA GeForce RTX 4090", "GPU-4090", int(24e9), int(23e9), (8, 9))
CARD = CardFacts(
    "2.13.0", "13.0", True, "580.65", "13.0", (GPU,), ("sm_80", "sm_86", "sm_90"), "", 4.4e9
)
WHOLE = Facts(
    CARD, "a processor", int(64e9), int(60e9), "phi-3-small", Path("/store"), int(90e9),
    Path("/cache"), int(90e9), store_bytes=12e9,
)  # fmt: skip


def with_card(**changes: Any) -> Facts:
    """The whole machine, another card."""
    return dataclasses.replace(WHOLE, card=dataclasses.replace(CARD, **changes))


def with_gpu(**changes: Any) -> Facts:
    """The whole machine, its card in another state."""
    return with_card(cards=(dataclasses.replace(GPU, **changes),))


def test_a_whole_machine_is_good() -> None:
    assert {check.status for check in report(WHOLE).checks} == {"good"}


@pytest.mark.parametrize(
    ("facts", "name", "status", "found", "fix"),
    [
        (with_card(driver_cuda="12.4"), "torch", "broken", "ends at CUDA 12.4", "ubuntu-drivers"),
        (with_card(torch_cuda=""), "torch", "broken", "for the CPU", "whl/cu130"),
        (with_card(driver="", cards=()), "driver", "broken", "no driver", "ubuntu-drivers"),
        (
            with_card(driver="", cards=(), present=False, asked=True),
            "driver", "broken", "no NVIDIA card here", "leave out --device",
        ),
        (with_card(driver=""), "driver", "warning", "NVML is missing", "compute,utility"),
        (with_card(cuda_error="CUDA unknown error"), "torch", "broken", "unknown", "nvidia-smi"),
        (with_gpu(capability=(12, 0)), "cuda:0", "broken", "built for sm_80", "whl/cu130"),
        (with_gpu(free=int(2e9)), "cuda:0", "broken", "needs 4.4 GB", "nvidia-smi"),
        (with_gpu(free=int(9e9)), "cuda:0", "warning", "others use it", "nvidia-smi"),
        (
            dataclasses.replace(WHOLE, missing_for_cuda="ninja", fix_for_cuda="pip install ninja"),
            "CUDA build tools", "warning", "ninja", "pip install ninja",
        ),
        (
            dataclasses.replace(WHOLE, missing_for_triton="gcc", fix_for_triton="apt install gcc"),
            "Triton's compiler", "warning", "gcc", "apt install gcc",
        ),
        (
            dataclasses.replace(WHOLE, store_free=int(5e9)),
            "disk of the store", "broken", "5.0 GB free, 12.0 GB needed", "--out",
        ),
        (
            dataclasses.replace(WHOLE, fetched_bytes=int(95e9)),
            "disk of the hub's cache", "broken", "95.0 GB needed", "HF_HOME",
        ),
        (
            dataclasses.replace(WHOLE, model_error="the hub does not answer"),
            "model", "broken", "does not answer", "hf download",
        ),
        (dataclasses.replace(WHOLE, memory_free=int(1e9)), "memory", "warning", "1.0 GB", "end"),
    ],
)  # fmt: skip
def test_a_broken_machine_is_told_its_fault_and_its_fix(
    facts: Facts, name: str, status: str, found: str, fix: str
) -> None:
    bad = [check for check in report(facts).checks if check.status != "good"]
    assert [(check.name, check.status) for check in bad] == [(name, status)]
    assert found in bad[0].found and fix in bad[0].fix
    assert report(facts).healthy() == (status != "broken")
    assert f"to mend it: {bad[0].fix}" in render(report(facts))


def test_kernels_are_lines_of_their_own() -> None:
    line = MachineCheck("kernel of int8", "good", "Linear8bitLt")
    assert line in report(dataclasses.replace(WHOLE, kernels=(line,))).checks


def test_json_has_the_documented_fields() -> None:
    made = json.loads(render(report(with_card(torch_cuda="")), "json"))
    assert (made["schema"], made["ok"]) == ("evalkit.doctor/1", False)
    assert set(made) == {"schema", "ok", "checks"}
    assert all(set(one) == {"name", "status", "found", "fix"} for one in made["checks"])


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        (("sm_86",), (8, 9), True),
        (("sm_90",), (8, 9), False),
        (("sm_75", "sm_90a"), (9, 0), True),
        (("sm_75", "compute_90"), (12, 0), True),
        (("sm_90",), (12, 0), False),
    ],
)
def test_binaries_run_on_their_major_version_and_ptx_on_later_ones(
    built: tuple[str, ...], capability: tuple[int, int], runs: bool
) -> None:
    assert runs_on(built, capability) is runs


@pytest.mark.parametrize(
    ("card", "needed", "said"),
    [
        (dataclasses.replace(CARD, driver_cuda="12.4"), 0.0, "torch: .*ends at CUDA 12.4"),
        (dataclasses.replace(CARD, architectures=("sm_90",)), 0.0, "built for sm_90 only"),
        (CARD, 1e18, "disk of the store"),
    ],
)
def test_compare_is_refused_before_it_starts(
    card: CardFacts, needed: float, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "gpu_of", lambda word: GPU)
    monkeypatch.setattr(machine, "look_at_cards", lambda cards, weights: card)
    with pytest.raises(UsageError, match=said):
        refuse_unready("GPU-4090", 14.8e9, tmp_path, needed)


def test_a_machine_without_a_card_asks_nothing_of_cuda(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "look_at_cards", None)
    refuse_unready("cpu", 14.8e9, tmp_path, 1.0)


@pytest.fixture
def hub_of(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A card of 24 GB, an empty cache, a hub that answers and a disk of 90 GB."""
    state = SimpleNamespace(here=False, error="", free=int(90e9), memory=int(24e9))

    def size(_: str) -> int:
        if state.error:
            raise ModelError(state.error)
        return int(14.8e9)

    monkeypatch.setattr(defaults, "gpu_memory", lambda device: state.memory)
    monkeypatch.setattr(defaults, "is_here", lambda ref: state.here)
    monkeypatch.setattr(hub, "download_bytes", size)
    monkeypatch.setattr(hub, "free_bytes", lambda folder: state.free)
    return state


@pytest.mark.parametrize(
    ("state", "asked", "model", "said"),
    [
        ({}, {}, "phi-3-small", "14.8 GB will be fetched, 90.0 GB are free"),
        ({"here": True, "error": "silent"}, {}, "phi-3-small", "in the cache"),
        ({"here": True}, {"offline": True}, "phi-3-small", "in the cache"),
        ({}, {"offline": True}, "demo", "--offline was given"),
        ({"error": "the hub does not answer"}, {}, "demo", "the hub does not answer"),
        ({"free": int(9e9)}, {}, "demo", "14.8 GB do not fit: 9.0 GB are free"),
        ({"memory": int(8e9)}, {}, "demo", "this GPU has 8 GB"),
        ({"error": "silent"}, {"weights": "random"}, "phi-3-small", "need no download"),
    ],
)
def test_a_bare_command_takes_phi_3_small_where_it_can_be_had(
    state: dict[str, Any], asked: dict[str, Any], model: str, said: str, hub_of: SimpleNamespace
) -> None:
    vars(hub_of).update(state)
    name, why = defaults.choose_model(None, "cuda", **asked)
    assert name == model and said in why


def test_doctor_without_a_variant_examines_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--device", "cpu", "--offline", "--out", str(tmp_path), "--format", "json"])
    checks = {one["name"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert ended.value.code == 0
    assert checks["model"]["found"] == "demo: here"
    assert checks["kernel of fp16"]["found"] == "Linear"
    assert all(one["fix"] for one in checks.values() if one["status"] in ("broken", "warning"))


def test_what_will_be_fetched_is_said_before_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []

    def resolve(*_: object, **__: object) -> None:
        assert said == ["Model: why."]
        raise ModelError("reached")

    monkeypatch.setattr(build_job, "choose_model", lambda *_, **__: ("demo", "Model: why."))
    monkeypatch.setattr(build_job, "resolve_model", resolve)
    options = resolved(CompareOptions, {"out": tmp_path, "device": "cpu"})
    with pytest.raises(ModelError, match="reached"):
        build_job.resolve_subject(options, send=lambda event: said.append(event.message))
