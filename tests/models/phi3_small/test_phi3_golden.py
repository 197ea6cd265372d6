"""Golden outputs of an independent float64 implementation."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import phi3_passes as passes
import pytest
import torch

from evalkit.models.phi3_small import Phi3SmallForCausalLM

CASES = ["short_blocks", "released_geometry", "longrope"]

Golden = tuple[Phi3SmallForCausalLM, torch.Tensor, np.ndarray]


@pytest.fixture(scope="module", params=CASES)
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    folder = shared / "phi3small_golden" / request.param
    model = Phi3SmallForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    arrays = np.load(folder / "expected.npz")
    return model, torch.from_numpy(arrays["input_ids"]), arrays["logits"][0]


def comparable(golden: Golden) -> slice:
    """Positions whose own length puts them in the regime of the whole text."""
    scaling = golden[0].config.rope_scaling
    return slice(scaling["original_max_position_embeddings"] if scaling else 0, None)


def test_one_pass(golden: Golden) -> None:
    model, ids, expected = golden
    assert passes.relative_error(passes.one_pass(model, ids), expected) < 1e-4


@pytest.mark.parametrize("size", [1, 7, 64])
def test_through_the_cache(golden: Golden, size: int) -> None:
    model, ids, expected = golden
    found = passes.in_chunks(model, ids, size)
    kept = comparable(golden)
    assert passes.relative_error(found[kept], expected[kept]) < 1e-4


@pytest.mark.parametrize("size", [1, 7, 64, 400])
def test_static_cache(golden: Golden, size: int) -> None:
    model, ids, expected = golden
    found = passes.static_cache(model, ids, size)
    kept = comparable(golden)
    assert passes.relative_error(found[kept], expected[kept]) < 1e-4


@pytest.mark.parametrize("size", [None, 64, 7])
def test_second_row_of_a_left_padded_batch(golden: Golden, size: int | None) -> None:
    model, ids, expected = golden
    found = passes.second_row(model, ids, size=size)
    kept = comparable(golden) if size else slice(None)
    assert passes.relative_error(found[kept], expected[kept]) < 1e-4


def test_bfloat16_is_close(golden: Golden) -> None:
    model, ids, expected = golden
    found = passes.one_pass(copy.deepcopy(model).to(torch.bfloat16), ids)
    assert passes.relative_error(found, expected) < 0.05
