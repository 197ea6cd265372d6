"""`--decompose`: what weights do and what the kernel does, with a kernel error that is known."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from evalkit.analysis.decompose import PASSES
from evalkit.backends import torchao as backend
from evalkit.declaration import resolved
from evalkit.models.layer_format import LayerFormat
from evalkit.models.layers import linear_modules
from evalkit.models.loading import Loaded, load_causal_lm
from evalkit.options import CompareOptions
from evalkit.progress import ignore
from evalkit.records import Comparison
from evalkit.records.decomposition import Decomposition
from evalkit.running.compare.plan import ComparePlan, make_plan
from evalkit.running.compare.run import run_plan
from evalkit.running.compare.worker import measure_variant
from evalkit.store.store import Store
from evalkit.texts.windows import Windows
from evalkit.view import render

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None or importlib.util.find_spec("bitsandbytes") is None,
    reason="torchao or bitsandbytes is not installed",
)
EXACT, WRONG, INT8, PLAIN = "int8@torchao", "int8@torchao,dtype=fp16", "int8", "bf16"
ERROR = 0.03


class RowLinear(nn.Module):
    """Codes of four bits with a scale a row; the kernel's outputs are too large by `error`."""

    def __init__(self, linear: Any, error: float) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scales = (weight.abs().amax(-1, keepdim=True) / 7).clamp_min(1e-7)
        self.register_buffer("packed", (weight / scales).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.bias, self.error = linear.bias, error

    def unpacked(self) -> Tensor:
        weights: Tensor = self.packed.float() * self.scales
        return weights

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = nn.functional.linear(inputs, self.unpacked().to(inputs.dtype), self.bias)
        return outputs * (1 + self.error)


class Reordered(RowLinear):
    """A kernel that keeps its weights in an order of its own."""


FORMATS = (
    LayerFormat("reordered", lambda m: isinstance(m, Reordered)),
    LayerFormat("row", lambda m: isinstance(m, RowLinear), unpack=lambda m: m.unpacked()),
)


def packed(source: Path, error: float = 0.0, kind: type[RowLinear] = RowLinear) -> Any:
    model = load_causal_lm(source, dtype=torch.float32, device="cpu")
    for name, layer in list(linear_modules(model)):
        model.set_submodule(name, kind(layer, error))
    return model


def load(source: Path, variant: Any, device: str, **_: Any) -> Loaded:
    """An exact kernel, or one that is wrong and cannot be unpacked."""
    if variant.option("dtype", "bf16") == "bf16":
        return Loaded(packed(source), "RowLinear", formats=FORMATS)
    wrong = packed(source, ERROR, Reordered)
    return Loaded(wrong, "Reordered", unpackable=lambda: packed(source), formats=FORMATS)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> ComparePlan:
    folder: Path = tmp_path_factory.mktemp("apart")
    (folder / "text.txt").write_text(tiny.documents(1, 8, sentences=1), encoding="utf-8")
    asked: Any = {
        "model": "demo", "text": (str(folder / "text.txt"),), "out": folder / "store",
        "device": "cpu", "only": ("text",), "decompose": True, "convention": "document",
        "context": 256,
    }  # fmt: skip
    found = make_plan(("fp32", EXACT, WRONG, INT8, PLAIN), resolved(CompareOptions, asked))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "load", load)
        for job in found.jobs:
            measure_variant(job, ignore)
    return found


@pytest.fixture(scope="module")
def comparison(plan: ComparePlan) -> Comparison:
    return run_plan(plan, ignore)


def apart(comparison: Comparison, name: str) -> Decomposition:
    found = next(row for row in comparison.rows if row.variant.label == name).decomposition
    assert found is not None
    return found


def known_divergence(plan: ComparePlan) -> float:
    """Mean KL of the kernel with its error from the weights, by two whole models."""
    source, windows = plan.checkpoint.path, Windows.load(windows_file(plan))
    right, wrong = packed(source), packed(source, ERROR)
    found = []
    for index in range(len(windows)):
        ids = torch.from_numpy(windows.window(index).astype("int64"))[None]
        first = int(windows.score_from[index])
        with torch.inference_mode():
            p, q = (
                model(ids).logits[0, first - 1 : -1].double().log_softmax(-1)
                for model in (right, wrong)
            )
        found.append((p.exp() * (p - q)).sum(-1))
    return float(torch.cat(found).mean())


def windows_file(plan: ComparePlan) -> Path:
    return Store(plan.store).windows_file(plan.jobs[0].windows)


def test_an_injected_kernel_error_is_recovered(plan: ComparePlan, comparison: Comparison) -> None:
    exact, wrong = apart(comparison, EXACT), apart(comparison, WRONG)
    assert wrong.direct and wrong.weights and wrong.served and wrong.difference and exact.weights
    assert wrong.direct.value == pytest.approx(known_divergence(plan), rel=1e-3)
    assert wrong.direct.low > (wrong.noise_floor or 0.0)
    assert wrong.weights.value == pytest.approx(exact.weights.value, rel=1e-5)
    between = wrong.served.value - wrong.weights.value
    assert wrong.difference.value == pytest.approx(between, rel=1e-4)
    assert wrong.difference.low <= wrong.difference.value <= wrong.difference.high
    assert wrong.kernel == "Reordered" and wrong.dtype == "float32"


def test_without_one_the_difference_is_within_noise(comparison: Comparison) -> None:
    exact = apart(comparison, EXACT)
    assert exact.direct and exact.difference and exact.noise_floor is not None
    assert exact.direct.value <= max(2 * exact.noise_floor, 1e-9)
    assert exact.difference.low - 1e-7 <= 0 <= exact.difference.high + 1e-7
    ordinary = next(row for row in comparison.rows if row.variant.label == EXACT)
    kl = ordinary.metrics["kl_divergence_mean"].value
    assert exact.weights and exact.weights.value == pytest.approx(kl, rel=1e-4)


def test_activations_of_llm_int8_are_told_from_its_weights(comparison: Comparison) -> None:
    found = apart(comparison, INT8)
    assert found.weights and found.served and found.direct
    assert found.weights.value > 0 and found.direct.value > 10 * (found.noise_floor or 0.0)
    row = next(row for row in comparison.rows if row.variant.label == INT8)
    assert "LLM.int8() layers as they are" in " ".join(row.notes), "the quality pass is as before"


def test_what_holds_no_packed_layers_says_so(comparison: Comparison) -> None:
    found = apart(comparison, PLAIN)
    assert found == Decomposition(reason="it holds no layers that can be unpacked")
    assert comparison.rows[0].decomposition is None


def test_the_table_and_the_json_hold_it(comparison: Comparison) -> None:
    text = render(comparison)
    assert "weights and kernels apart" in text and "served from weights" in text
    assert "not measured: it holds no layers" in text
    rows = json.loads(render(comparison, "json"))["rows"]
    assert "decomposition" not in rows[0]
    assert rows[2]["decomposition"]["direct"]["value"] == apart(comparison, WRONG).direct.value
    assert rows[4]["decomposition"]["reason"]


def test_it_is_asked_of_a_stored_comparison_later(plan: ComparePlan) -> None:
    without = [
        dataclasses.replace(job, settings=dataclasses.replace(job.settings, decompose=False))
        for job in plan.jobs
    ]
    for asked, job in zip(plan.jobs[1:], without[1:], strict=True):
        assert asked.parts[0].run.id == job.parts[0].run.id
        assert {name for name, _ in asked.parts[0].needed} >= set(PASSES)
