"""Opening a variant: what is compiled first is outside the clock, and part of what a key says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from evalkit.backends import _gptqmodel_kernels, parse_variant
from evalkit.declaration import resolved
from evalkit.options import CompareOptions
from evalkit.progress import ignore
from evalkit.running import keys, session
from evalkit.running.build_job import build_job, resolve_subject
from evalkit.running.job import Job


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder: Path = tmp_path_factory.mktemp("session")
    model = tiny.make_llama(folder / "model")
    asked: Any = {"model": str(model), "out": folder / "store", "device": "cpu"}
    subject = resolve_subject(resolved(CompareOptions, asked))
    return build_job(subject, parse_variant("int4,group_size=32"))


def test_a_build_is_no_part_of_the_time_of_loading(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    now = [100.0]

    def build(checkpoint: Any, variant: Any, device: str, listener: Any) -> None:
        now[0] += 240
        done.append(f"built for {variant.precision} on {device}")

    def load(*_: Any, **__: Any) -> Any:
        now[0] += 3
        done.append("loaded")
        model = SimpleNamespace(can_generate=lambda: False)
        return SimpleNamespace(model=model, kernel="MarlinLinear", notes=())

    backend = SimpleNamespace(build=build, load=load)
    monkeypatch.setattr(session.plugins, "load", lambda group, name: backend)
    monkeypatch.setattr(session, "spec_of", lambda variant: SimpleNamespace(quantizes=False))
    monkeypatch.setattr(session.time, "perf_counter", lambda: now[0])
    opened = session._load(job, ignore)
    assert done == ["built for int4 on cpu", "loaded"]
    assert opened.seconds["load"] == 3


def test_on_a_card_the_key_says_what_cannot_be_compiled(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking: list[str] = []
    monkeypatch.setattr(_gptqmodel_kernels, "missing_tools", lambda: tuple(lacking))

    def key(words: str, device: str) -> Any:
        changed = {"variant": parse_variant(words), "device": device}
        return keys.probes_key(Job(**(vars(job) | changed)))

    def all_keys() -> list[Any]:
        return [key(words, device) for words in ("int4", "int8") for device in ("cuda", "cpu")]

    whole = all_keys()
    lacking.append("nvcc")
    changed = [one != other for one, other in zip(whole, all_keys(), strict=True)]
    assert changed == [True, False, False, False]
