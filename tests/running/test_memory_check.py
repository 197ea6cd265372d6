"""What does not fit is refused with the plan's numbers; offloading happens only when asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import tiny
import torch

import evalkit
from evalkit.backends import parse_variant
from evalkit.errors import UsageError
from evalkit.models import offload
from evalkit.models.resolve import resolve_config, resolve_model
from evalkit.progress import ignore
from evalkit.running import memory_check
from evalkit.running.defaults import choose_variants
from evalkit.running.gpus import Gpu
from evalkit.view import render


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_llama(tmp_path_factory.mktemp("room") / "model")


def refusals(*words: str, gigabytes: float, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(memory_check, "gpu_memory", lambda device: gigabytes * 1e9)
    variants = [parse_variant(word) for word in words]
    return memory_check.refusals(variants, resolve_config("phi-3-small"), "cuda", 8192)


def test_a_card_of_12_gb_holds_int4_of_phi_3_small_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = refusals("fp16", "int4", gigabytes=12, monkeypatch=monkeypatch)
    assert list(found) == ["fp16@transformers"]
    message = found["fp16@transformers"]
    assert message.startswith("fp16 needs 1")
    assert "weights 14.8 GB, KV cache 1.1 GB" in message
    assert "there are 12.0 GB" in message
    assert re.search(r": int4(, int8)? would fit; --offload", message)


def test_memory_that_is_free_now_is_the_cards_or_the_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = Gpu("NVIDIA GeForce RTX 4090", "GPU-1", int(24e9), int(9e9), (8, 9))
    monkeypatch.setattr(memory_check, "gpu_of", lambda word: card if word == "GPU-1" else None)
    assert memory_check.free_memory("GPU-1") == 9e9
    assert 0 < memory_check.free_memory("cpu") <= memory_check.capacity("cpu")


def test_what_a_variant_needs_is_the_plans_total(model: Path) -> None:
    words = ("fp16", "int8", "fp16,offload=true", "served@endpoint,url=http://127.0.0.1:1")
    variants = [parse_variant(word) for word in words]
    found = memory_check.needed_memory(variants, resolve_config(str(model)), "cuda", 64)
    planned = evalkit.plan("fp16", "int8", model=str(model), gpu="rtx-4090", context=64)
    assert list(found.values()) == [row.memory.total for row in planned.rows]


def test_a_card_of_24_gb_holds_all_three(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusals("fp16", "int8", "int4", gigabytes=25.3, monkeypatch=monkeypatch) == {}


def test_where_nothing_fits_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = refusals("int4", gigabytes=2, monkeypatch=monkeypatch)
    (message,) = found.values()
    assert "no variant would fit" in message
    assert "--offload" not in message


def test_offloaded_and_served_variants_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("fp16,offload=true", "served@endpoint,url=http://127.0.0.1:1")
    assert refusals(*words, gigabytes=2, monkeypatch=monkeypatch) == {}


def test_small_files_are_not_planned(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "shape_of", lambda *_: pytest.fail("planned"))
    checkpoint = resolve_model(str(model))
    assert memory_check.refusals([parse_variant("fp16")], checkpoint, "cpu", 128) == {}


def test_a_refused_variant_is_a_row(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_check, "capacity", lambda _: 1e3)
    bench = evalkit.bench("fp32", model=str(model), out=tmp_path, rounds=1, progress=ignore)
    (point,) = bench.points
    assert point.status == "failed"
    assert point.message.startswith("fp32 needs 0.0")


def test_offload_is_a_word_of_variants_that_can() -> None:
    found = choose_variants(["fp16", "int4"], offload=True)
    assert [v.text for v in found] == [
        "fp16@transformers,offload=true", "int4@gptq,group_size=128",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="int8 cannot be offloaded; fp32, fp16 and bf16 can"):
        choose_variants(["int8"], offload=True)


def test_offloaded_weights_give_the_same_logits(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evalkit.backends import transformers as backend

    ids = torch.arange(40)[None]
    plain = backend.load(model, parse_variant("fp32"), "cpu").model
    # Room for the embedding and a layer: the other layer and the head stay on disk.
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(available=int(0.25e6 / 0.7))
    )
    loaded = backend.load(model, parse_variant("fp32,offload=true"), "cpu")
    assert offload.offloaded(loaded.model) == {"disk": pytest.approx(2, abs=2)}
    assert "on disk: speed is that of moving them" in loaded.notes[0]
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, plain(ids).logits)


def test_every_row_says_that_it_was_offloaded(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(tiny.documents(1000, 4))
    words: dict[str, Any] = {
        "model": str(model), "text": [text], "context": 64, "device": "cpu", "progress": ignore,
        "out": tmp_path / "store",
    }  # fmt: skip
    result = evalkit.compare("fp32", "fp16", offload=True, **words)
    rows = json.loads(render(result, "json"))["rows"]
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert all("offload=true" in row["resolved"] for row in rows)
    assert render(result).count("nothing was offloaded") >= 1
