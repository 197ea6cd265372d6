"""Cards and words for devices: the same card everywhere, and never the CPU where CUDA was asked."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nvml_stand_in import Card, Driver, install

import evalkit
from evalkit.backends import parse_variant
from evalkit.declaration import resolved
from evalkit.errors import UsageError
from evalkit.options import LoadOptions
from evalkit.progress import ignore
from evalkit.running import environment, gpus, process, quantize
from evalkit.running.build_job import build_job, on_this_machine, resolve_subject
from evalkit.running.compare import run as compare_run
from evalkit.running.compare.expected import Expectation
from evalkit.running.gpus import Gpu, gpu_of, resolve_device, unused_gpu
from evalkit.running.job import Job

# In the order of the PCI bus: CUDA's own order would begin with the faster one.
SLOW = Card("NVIDIA GeForce GTX 1650", "GPU-1650", 4, (7, 5))
FAST = Card("NVIDIA GeForce RTX 4090", "GPU-4090", 24, (8, 9))
CUT = Card(
    "NVIDIA H200", "GPU-h200", 141, (9, 0),
    slices=(Card("NVIDIA H200 MIG 1g.18gb", "MIG-a", 18), None, Card("MIG 2g.35gb", "MIG-b", 35)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def torch_for_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The installed torch is one for CUDA, as far as its version file says."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "_torch_version", lambda: {"__version__": "2.13.0", "cuda": "13.0"})
    asked = gpus._from_torch
    asked.cache_clear()
    yield
    asked.cache_clear()


def test_a_card_is_what_nvml_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver((SLOW, FAST)))
    assert gpu_of("cuda:1") == Gpu(
        "NVIDIA GeForce RTX 4090", "GPU-4090", 24 * 2**30, 21 * 2**30, (8, 9)
    )
    assert gpu_of("GPU-4090") == gpu_of("cuda:1")
    assert gpu_of("cuda:2") is None and gpu_of("cpu") is None
    assert environment.gpu_memory("cuda:1") == 24 * 2**30


@pytest.mark.parametrize(
    ("visible", "words"),
    [
        (None, ["GPU-1650", "GPU-4090", "MIG-a", "MIG-b"]),
        ("", []),
        ("1,0", ["GPU-4090", "GPU-1650"]),
        (" 1 ", ["GPU-4090"]),
        ("GPU-4090", ["GPU-4090"]),
        ("GPU-4", ["GPU-4090"]),
        ("MIG-b,GPU-1650", ["MIG-b", "GPU-1650"]),
        ("2", ["MIG-a"]),
        ("1,7,0", ["GPU-4090"]),
        ("-1,0", []),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_does(
    visible: str | None, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Driver((SLOW, FAST, CUT)))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.word for gpu in gpus.gpus()] == words
    assert environment.gpu_names() == tuple(gpu.name for gpu in gpus.gpus())


def test_the_machine_is_named_by_the_card_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver((SLOW, FAST), lacks=("mig",)))
    found = environment.environment("cuda:1")
    assert ", NVIDIA GeForce RTX 4090 [" in found.machine
    # The number is this machine's own affair: values of two equal cards are compared.
    assert found.device == "cuda"
    assert "GTX 1650" in environment.machine("cuda")
    assert "NVIDIA" not in environment.machine("cpu")


@pytest.mark.parametrize(
    ("asked", "device"),
    [("auto", "cuda"), (" CPU ", "cpu"), ("cuda", "cuda"), ("CUDA:1", "cuda:1")],
)
def test_words_with_two_cards(asked: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver((SLOW, FAST)))
    assert resolve_device(asked) == device
    with pytest.raises(UsageError, match=r"no GPU number 2 .*has 2 \(cuda:0 to cuda:1\)"):
        resolve_device("cuda:2")


def test_words_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver(present=False))
    monkeypatch.setattr(gpus, "_has_driver", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(UsageError, match=r"no CUDA for --device cuda: .*driver; use --device cpu"):
        resolve_device("cuda")


def test_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver((FAST,)))
    monkeypatch.setattr(gpus, "_torch_version", lambda: {"__version__": "2.13.0+cpu", "cuda": None})
    with pytest.raises(UsageError, match=r"torch 2.13.0\+cpu is built without CUDA"):
        resolve_device("cuda")
    assert resolve_device("auto") == "cpu"
    # The CPU beside an idle card is never chosen in silence.
    line = "Device: the CPU, as torch 2.13.0+cpu is built without CUDA; NVIDIA GeForce RTX 4090"
    assert unused_gpu("cpu").startswith(line)


def test_the_installed_build_is_known_without_importing_torch() -> None:
    script = "import sys; from evalkit.running import gpus; v = gpus._torch_version();"
    script += "print(v['__version__'], v['cuda'], 'torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [torch.__version__, str(torch.version.cuda), "False"]


@pytest.mark.parametrize("word", ["gpu", "cdua", "cuda:", "cuda:x", "", "cpu:0"])
def test_other_words(word: str) -> None:
    with pytest.raises(UsageError, match="unknown device") as caught:
        resolve_device(word)
    assert "cuda:N" in str(caught.value)
    if word == "cdua":
        assert "did you mean 'cuda'" in str(caught.value)


class TorchCards:
    """torch.cuda of a container without NVML: two cards, known by their numbers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        properties = SimpleNamespace(name="AMD Instinct", total_memory=64e9, major=9, minor=4)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (60e9 - number, 64e9))


@pytest.mark.parametrize(
    ("visible", "words"), [(None, ["0", "1"]), ("3, 5", ["3", "5"]), ("MIG-a,b", ["MIG-a", "b"])]
)
def test_without_nvml_a_child_asks_torch_once(
    visible: str | None, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Driver(present=False))
    monkeypatch.setattr(gpus, "_has_driver", lambda: True)
    TorchCards(monkeypatch)
    asked: list[Any] = []

    def here(task: Any, job: Any, listener: Any) -> Any:
        asked.append(job)
        return task(job, listener)

    monkeypatch.setattr(gpus, "run_child", here)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert resolve_device("auto") == "cuda"
    assert [gpu.word for gpu in gpus.gpus()] == words
    assert gpu_of("cuda:1") == Gpu("AMD Instinct", words[1], 64 * 10**9, 60 * 10**9 - 1, (9, 4))
    assert "AMD Instinct" in environment.machine("cuda")
    assert environment.gpu_memory("cuda") == 64e9
    assert asked == [visible]


def test_a_card_whose_memory_nvml_does_not_know_is_asked_of_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, Driver((FAST,), lacks=("memory",)))
    monkeypatch.setattr(gpus, "_has_driver", lambda: True)
    known = (Gpu("Orin", "0", 64 * 10**9, 1, (8, 7)),)
    monkeypatch.setattr(gpus, "_from_torch", lambda visible: known)
    assert gpus.gpus() == known


@pytest.mark.parametrize(
    ("version", "library", "found"),
    [
        ({}, True, False),
        ({"cuda": "13.0"}, True, True),
        ({"cuda": "13.0"}, False, False),
    ],
)
def test_a_driver_is_looked_for_before_a_process_is_started(
    version: dict[str, str], library: bool, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> None:
        if not library:
            raise OSError("cannot open shared object file")

    monkeypatch.setattr(gpus, "_torch_version", lambda: version)
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert gpus._has_driver() is found


def _seen(job: None, send: Any) -> tuple[str | None, ...]:
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PYTORCH_ALLOC_CONF")
    return tuple(os.environ.get(name) for name in names)


def test_a_child_sees_one_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    seen = process.run_child(_seen, None, ignore, gpu="GPU-4090")
    assert seen == ("GPU-4090", "PCI_BUS_ID", process.ALLOCATOR)
    assert process.run_child(_seen, None, ignore, gpu="")[0] == ""
    assert process.run_child(_seen, None, ignore)[0] == "5"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert process.run_child(_seen, None, ignore)[0] is None


@pytest.mark.parametrize(
    ("name", "words", "settings"),
    [
        ("PYTORCH_ALLOC_CONF", "max_split_size_mb:64", "max_split_size_mb:64"),
        ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:32", "max_split_size_mb:32"),
        ("PYTHONHASHSEED", "0", process.ALLOCATOR),
    ],
)
def test_the_users_own_allocator_wins(
    name: str, words: str, settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.os, "environ", {name: words})
    process.show_gpu("GPU-4090")
    assert process.os.environ["PYTORCH_ALLOC_CONF"] == settings


def test_every_variant_has_the_settings_that_gptqmodel_makes_for_its_own() -> None:
    spec = find_spec("gptqmodel")
    if spec is None or spec.origin is None:
        pytest.skip("gptqmodel is not installed")
    source = Path(spec.origin).with_name("models").joinpath("auto.py").read_text(encoding="utf-8")
    found = dict(re.findall(r"""os\.environ\["(\w+)"\] = '([^']+)'""", source))
    assert found["PYTORCH_ALLOC_CONF"] == process.ALLOCATOR
    assert found["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return install(monkeypatch, Driver((SLOW, FAST)))


def _job(tmp_path: Path, words: str = "fp16", device: str = "cuda:1", serve: str = "") -> Job:
    given = {"model": "demo", "device": device, "out": str(tmp_path), "offline": True}
    subject = resolve_subject(resolved(LoadOptions, given))
    return build_job(subject, parse_variant(words), serve=serve)


def test_a_job_is_for_the_card_that_was_asked_for(two_cards: Driver, tmp_path: Path) -> None:
    job = _job(tmp_path)
    assert (job.device, job.gpu, job.visible) == ("cuda", "GPU-4090", "GPU-4090")
    assert "RTX 4090" in job.environment.machine
    on_cpu = _job(tmp_path, device="cpu")
    assert (on_cpu.device, on_cpu.gpu, on_cpu.visible) == ("cpu", "", "")


def test_a_server_may_use_every_card(two_cards: Driver, tmp_path: Path) -> None:
    assert dataclasses.replace(_job(tmp_path), serve="vllm serve").visible is None


def test_a_ray_worker_names_its_own_machine_and_card(
    two_cards: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _job(tmp_path)
    # Ray lends a worker one card, by NVML's number.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    there = on_this_machine(job)
    assert (there.device, there.gpu) == ("cuda", "GPU-1650")
    assert "GTX 1650" in there.environment.machine
    assert there.environment.packages == job.environment.packages


def test_what_quantizes_and_what_measures_are_shown_the_same_card(
    two_cards: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, str | None]] = []

    def child(task: Any, job: Any, listener: Any, *, gpu: str | None = None) -> Any:
        shown.append((task.__name__, gpu))

    monkeypatch.setattr(quantize, "run_child", child)
    monkeypatch.setattr(compare_run, "run_child", child)
    monkeypatch.setattr(compare_run, "expected_time", lambda *_, **__: Expectation())
    # There is no card behind the stand-in for a child to reach.
    monkeypatch.setattr(compare_run, "refuse_measuring", lambda *_: None)
    (tmp_path / "text.txt").write_text("Once upon a time. " * 50)
    evalkit.compare(
        "int4@gptq,group_size=32", model="demo", device="cuda:1", text=[tmp_path / "text.txt"],
        context=64, out=tmp_path / "store", progress=ignore,
    )  # fmt: skip
    assert shown == [("_make", "GPU-4090"), ("_measure", "GPU-4090")]
