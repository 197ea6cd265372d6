"""A variant in another dtype than the baseline: what quantizing did, apart from its rounding.

On a CPU all variants are scored in float32, so the arithmetic of a card is put in its place.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from safetensors.torch import load_file, save_file

from evalkit.declaration import resolved
from evalkit.options import CompareOptions
from evalkit.progress import ignore
from evalkit.records import Comparison, Row
from evalkit.running import session
from evalkit.running.compare.plan import make_plan
from evalkit.running.compare.run import run_plan
from evalkit.running.compare.worker import measure_variant
from evalkit.view import render

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="torchao is not installed"
)
NAME = "weights_only_kl_divergence_mean"


def trained_in_bfloat16(path: Path) -> str:
    """A checkpoint that bfloat16 holds exactly."""
    made = tiny.make_llama(path)
    file = made / "model.safetensors"
    rounded = {name: one.bfloat16().to(one.dtype) for name, one in load_file(file).items()}
    save_file(rounded, file, metadata={"format": "pt"})
    return str(made)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder: Path = tmp_path_factory.mktemp("weights")
    (folder / "text.txt").write_text(tiny.documents(1, 20), encoding="utf-8")
    asked: Any = {
        "model": trained_in_bfloat16(folder / "model"), "text": (str(folder / "text.txt"),),
        "out": folder / "store", "device": "cpu",
    }  # fmt: skip
    names = ("fp16", "int8@torchao", "int8@torchao,dtype=fp16", "int8@torchao,activations=dynamic")
    plan = make_plan(names, resolved(CompareOptions, asked))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "for_scoring", lambda loaded, device: loaded)
        jobs = tuple(
            dataclasses.replace(job, parts=tuple(p for p in job.parts if p.kind == "texts"))
            for job in plan.jobs
        )
        for job in jobs:
            measure_variant(job, ignore)
    return run_plan(dataclasses.replace(plan, jobs=jobs), ignore)


def row(comparison: Comparison, name: str) -> Row:
    return next(row for row in comparison.rows if row.variant.asked == name)


def test_bfloat16s_rounding_is_not_booked_as_the_quantizers_damage(comparison: Comparison) -> None:
    found = row(comparison, "int8@torchao")
    alone, own = found.metrics[NAME], found.metrics["kl_divergence_mean"]
    same = row(comparison, "int8@torchao,dtype=fp16").metrics["kl_divergence_mean"]
    assert alone.value is not None and own.value is not None and same.value is not None
    assert alone.low is not None and alone.low <= alone.value
    assert alone.value < 0.8 * own.value
    assert alone.value == pytest.approx(same.value, rel=0.05)
    assert alone.details["own_kernel"] == pytest.approx(own.value, rel=1e-6)
    (note,) = (note for note in found.notes if "weights alone" in note)
    assert note.startswith("KL of its weights alone, in the baseline's float16: ")
    assert "with the rounding of its own bfloat16: " in note
    exported = json.loads(render(comparison, "json"))["rows"][1]["metrics"][NAME]
    assert exported["value"] == alone.value


def test_the_same_arithmetic_needs_no_second_pass(comparison: Comparison) -> None:
    for name in ("fp16", "int8@torchao,dtype=fp16"):
        found = row(comparison, name)
        assert NAME not in found.metrics
        assert not any("weights alone" in note for note in found.notes)


def test_layers_that_are_more_than_their_weights_are_said_to_hold_both(
    comparison: Comparison,
) -> None:
    found = row(comparison, "int8@torchao,activations=dynamic")
    assert NAME not in found.metrics
    assert any("the divergence holds bfloat16's rounding" in note for note in found.notes)
