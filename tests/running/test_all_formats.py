"""`--formats` and `--calibration-seeds`: the variants they stand for."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import tiny

from evalkit.backends import parse_variant, spec_of
from evalkit.declaration import resolved
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.resolve import resolve_model
from evalkit.options import CompareOptions
from evalkit.records import Variant
from evalkit.running.calibration import calibration_seed
from evalkit.running.compare import formats
from evalkit.running.compare.formats import all_formats, with_seeds
from evalkit.running.compare.plan import make_plan
from evalkit.running.keys import variant_key

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gptqmodel", "torchao")),
    reason="gptqmodel or torchao is not installed",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of widths 64 and 96, which groups of 32 divide and no larger ones."""
    found = tmp_path_factory.mktemp("formats")
    (found / "text.txt").write_text(tiny.documents(1, 3), encoding="utf-8")
    (found / "calibration.txt").write_text(tiny.documents(9, 3), encoding="utf-8")
    tiny.make_llama(found / "model")
    return found


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return resolve_model(str(folder / "model"))


def plan_of(folder: Path, *variants: str, **options: Any) -> Any:
    asked: Any = {
        "model": str(folder / "model"), "text": (str(folder / "text.txt"),), "only": ("text",),
        "out": folder / "store", "device": "cpu", "offline": True, **options,
    }  # fmt: skip
    return make_plan(variants, resolved(CompareOptions, asked))


def test_every_backend_gives_the_formats_that_it_can_make_here(checkpoint: Checkpoint) -> None:
    possible, refused = all_formats(checkpoint, "cpu", None)
    texts = [variant.text for variant in possible]
    assert {"int8@bitsandbytes", "int8@torchao", "int8@torchao,activations=dynamic"} <= {*texts}
    assert "int4@gptq,group_size=32" in texts, "no larger group divides the layers"
    reasons = dict(refused)
    assert "needs CUDA" in reasons["int4@torchao,group_size=32"]
    assert not {spec_of(one).name for one in possible} & {"endpoint", "checkpoint", "transformers"}
    for text in texts:
        assert parse_variant(text).text == text


def test_on_a_card_other_formats_are_possible(checkpoint: Checkpoint) -> None:
    possible, _ = all_formats(checkpoint, "cuda", (8, 9))
    assert "int4@torchao,group_size=32" in [variant.text for variant in possible]


def test_those_not_possible_are_notes_and_no_rows(folder: Path) -> None:
    plan = plan_of(folder, "fp32", "int4@gptq,group_size=32", formats=True)
    words = [job.variant.label for job in plan.jobs]
    assert words[:2] == ["fp32", "int4@gptq,group_size=32"]
    assert words.count("int4@gptq,group_size=32") == 1
    assert not any(job.refusal for job in plan.jobs if job.variant.backend != "gptq")
    assert any(note.startswith("--formats leaves out int4@torchao") for note in plan.notes)
    assert "--formats" in plan.command


def test_a_stranger_s_backend_is_found(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataclasses.replace(spec_of("torchao"), precisions=("int8",), formats=())
    monkeypatch.setattr(formats, "spec_of", lambda _: spec)
    monkeypatch.setattr(formats.plugins, "names", lambda _: ["torchao"])
    possible, refused = all_formats(checkpoint, "cpu", None)
    assert ([one.text for one in possible], refused) == (["int8@torchao"], ())
    hidden = dataclasses.replace(spec, simulates=True)
    monkeypatch.setattr(formats, "spec_of", lambda _: hidden)
    assert all_formats(checkpoint, "cpu", None) == ((), ())


def test_calibrated_methods_are_made_with_every_seed() -> None:
    asked = [parse_variant(word) for word in ("fp16", "int8", "int4", "int4@bitsandbytes")]
    assert [one.label for one in with_seeds(asked, 3)] == [
        "fp16", "int8", "int4", "int4,calibration_seed=1", "int4,calibration_seed=2",
        "int4@bitsandbytes",
    ]  # fmt: skip
    named = [parse_variant("int4@gptq,calibration_seed=5")]
    assert with_seeds(named, 3) == named


def test_a_seed_is_another_draw_and_known_by_it(folder: Path) -> None:
    word = f"int4@gptq,group_size=32,calibration={folder / 'calibration.txt'}"
    plan = plan_of(folder, "fp32", word, calibration_seeds=2)
    _, first, second = plan.jobs
    assert first.calibration != second.calibration
    assert variant_key(first) != variant_key(second)
    moved = plan_of(folder, "fp32", word, seed=1).jobs[1]
    assert variant_key(moved) == variant_key(second), "1 and 0 are drawn as 0 and 1"
    assert calibration_seed(Variant("int4", "gptq"), 7) == 7
