"""Damage maps end to end: what is spoiled is found, pieces add up, and work is resumed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import LlamaForCausalLM

from evalkit.declaration import resolved
from evalkit.errors import UsageError, VariantError
from evalkit.options import SensitivityOptions
from evalkit.progress import ignore
from evalkit.records.sensitivity import Sensitivity
from evalkit.running.sensitivity import measuring, run
from evalkit.running.sensitivity.plan import plan_sensitivity
from evalkit.running.sensitivity.worker import measure_sensitivity

BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not BITSANDBYTES, reason="bitsandbytes is not installed")
NF4 = "int4@bitsandbytes"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, one with a spoiled layer, a pruned one with a tied head, and a text."""
    folder: Path = tmp_path_factory.mktemp("maps")
    tiny.make_llama(folder / "model")
    (folder / "text.txt").write_text(tiny.documents(1, 12, sentences=3), encoding="utf-8")
    model = LlamaForCausalLM.from_pretrained(folder / "model")
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.001)
        model.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    tiny.make_llama(folder / "spoiled")
    model.save_pretrained(folder / "spoiled")
    return folder


def options(place: Path, **given: Any) -> SensitivityOptions:
    asked = {
        "model": str(place / "model"), "text": (str(place / "text.txt"),), "out": place / "store",
        "device": "cpu", "convention": "document", "context": 100,
    }  # fmt: skip
    return resolved(SensitivityOptions, {**asked, **given})


def mapped(place: Path, variant: str, **given: Any) -> Sensitivity:
    return measure_sensitivity(plan_sensitivity(variant, options(place, **given), ignore), ignore)


def test_a_spoiled_module_of_a_plain_directory_is_first_clear_of_the_second(place: Path) -> None:
    by_layer = mapped(place, str(place / "spoiled"))
    assert by_layer.pieces[0].name == "layer 1"
    found = mapped(place, str(place / "spoiled"), by="module")
    first, second = found.pieces[:2]
    assert first.modules == ("model.layers.1.mlp.down_proj",) and first.layer == 1
    assert first.low > second.high
    assert first.bytes_saved == 0 and first.damage_per_byte is None
    assert {"embedding", "head"} <= {piece.name for piece in found.pieces}
    by_kind = mapped(place, str(place / "spoiled"), by="kind")
    assert by_kind.pieces[0].name == "mlp.down_proj" and by_kind.pieces[0].layer is None
    assert by_kind.whole == found.whole == by_layer.whole


@needs_bitsandbytes
def test_the_pieces_of_a_quantized_model_add_up_to_the_whole(place: Path) -> None:
    found = mapped(place, NF4, by="module")
    assert len(found.pieces) == 14
    assert found.additivity is not None and 0.7 < found.additivity < 1.3
    assert found.whole is not None and found.whole.low < found.whole.value < found.whole.high
    assert found.noise_floor is not None and found.noise_floor < 1e-6 < found.pieces[-1].kl
    for piece in found.pieces:
        assert piece.low < piece.kl < piece.high
        assert piece.bytes is not None and piece.bytes_saved is not None
        assert piece.bytes_saved > piece.bytes > 0
    assert found.piece("model.layers.0.mlp.up_proj").kind == "mlp.up_proj"
    restored = mapped(place, NF4, by="layer", direction="restore")
    assert restored.whole == found.whole
    assert sum(piece.kl for piece in restored.pieces) == pytest.approx(found.whole.value, rel=0.5)


@needs_bitsandbytes
def test_a_quantized_cache_is_one_piece(place: Path) -> None:
    found = mapped(place, f"{NF4},kv_cache=int4")
    cache = found.piece("kv_cache")
    assert cache.kl > 1e-4 and cache.bytes is None and cache.layer is None
    restored = mapped(place, f"{NF4},kv_cache=int4", direction="restore")
    assert restored.piece("kv_cache").kl == pytest.approx(cache.kl, rel=0.7)
    weights = mapped(place, NF4)
    for layer in ("layer 0", "layer 1"):
        assert found.piece(layer).kl == pytest.approx(weights.piece(layer).kl, rel=1e-4)


@needs_bitsandbytes
def test_noise_of_the_same_size_stands_beside_a_layer_and_gradients_order_alike(
    place: Path,
) -> None:
    predicted = mapped(place, NF4, by="module", method="gradient")
    assert all(piece.kl > 0 for piece in predicted.pieces) and predicted.whole is None
    found = mapped(place, NF4, by="module", control=True)
    assert found.rank_correlation is not None and found.rank_correlation > 0.5
    for piece in found.pieces:
        assert piece.control is not None and piece.gradient is not None
        assert 0.1 < piece.control / piece.kl < 10
        assert 0.1 < piece.gradient / piece.kl < 10
    again = mapped(place, NF4, by="module", method="gradient")
    assert again.rank_correlation == pytest.approx(found.rank_correlation)


@needs_bitsandbytes
def test_time_that_is_up_leaves_a_part_which_the_next_call_completes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped: list[tuple[str, tuple[int, ...]]] = []
    own = measuring.Measuring._swap

    def swap(self: Any, one: Any, piece: Any, windows: Any) -> None:
        swapped.append((piece.name, tuple(sorted(windows))))
        own(self, one, piece, windows)

    monkeypatch.setattr(measuring.Measuring, "_swap", swap)
    whole = mapped(place, NF4, by="kind", out=place / "whole")
    every = swapped.copy()
    swapped.clear()
    with monkeypatch.context() as patch:
        patch.setattr(measuring.Measuring, "_late", property(lambda self: len(swapped) >= 4))
        part = mapped(place, NF4, by="kind", out=place / "parts")
    assert not part.complete and part.unmeasured and part.additivity is None
    assert len(part.pieces) + len(part.unmeasured) == len(whole.pieces)
    found = mapped(place, NF4, by="kind", out=place / "parts")
    assert len(swapped) == len(set(swapped)) and set(swapped) == set(every)
    assert found.complete and found.pieces == whole.pieces
    swapped.clear()
    assert mapped(place, NF4, by="kind", out=place / "parts").pieces == found.pieces
    assert not swapped


@needs_bitsandbytes
def test_a_map_of_more_text_takes_what_one_of_less_has_read(place: Path) -> None:
    less = mapped(place, NF4, out=place / "more", tokens=300)
    more = mapped(place, NF4, out=place / "more")
    whole = mapped(place, NF4, out=place / "whole")
    assert less.tokens < more.tokens == whole.tokens
    for piece in more.pieces:
        assert piece.kl == pytest.approx(whole.piece(piece.name).kl, rel=1e-4)
        assert piece.tokens == whole.tokens


@needs_bitsandbytes
def test_shares_of_the_pieces_make_the_map_of_one_process(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray's workers do, one after the other: what is left is put together."""
    whole = mapped(place, NF4, by="layer", out=place / "whole")
    given = options(place, by="layer", out=place / "shares", ray="local")
    ran: list[tuple[int, int]] = []

    def run_each(calls: Any, function: Any, *_: Any) -> Iterator[tuple[int, Any]]:
        for index, call in enumerate(calls):
            ran.append(call[0].share)
            yield index, function(*call)

    monkeypatch.setattr(run, "slots", lambda *_: 2)
    monkeypatch.setattr(run, "run_each", run_each)
    monkeypatch.setattr(run, "run_child", lambda task, work, send, **_: task(work, send))
    found = run.run_sensitivity(NF4, given, ignore)
    assert ran == [(0, 2), (1, 2)]
    assert found.complete and found.pieces == whole.pieces and found.whole == whole.whole
    monkeypatch.setattr(run, "run_child", None)
    # In the store now: neither a worker nor a child is asked.
    assert run.run_sensitivity(NF4, given, ignore).pieces == found.pieces and len(ran) == 2


def test_what_cannot_be_exchanged_is_refused_in_one_line(place: Path) -> None:
    with pytest.raises(UsageError, match="is the baseline: name a variant with other weights"):
        plan_sensitivity("fp16", options(place), ignore)
    with pytest.raises(UsageError, match="a server's weights cannot be exchanged"):
        plan_sensitivity("served@endpoint,url=http://127.0.0.1:1", options(place), ignore)
    with pytest.raises(VariantError, match="give a directory of the same architecture"):
        plan_sensitivity(str(place / "model"), options(place, model="demo"), ignore)
    with pytest.raises(VariantError, match="the weights are the baseline's"):
        mapped(place, str(place / "model"))
