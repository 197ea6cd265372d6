"""The model against the literal float64 reference, over the shapes a configuration allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import phi3_passes as passes
import phi3_reference as reference
import pytest
import torch
from phi3_tiny import LONGROPE, random_ids, tiny_model, weights_of

from evalkit.models.phi3_small import Phi3SmallForCausalLM, layout

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (90, {}),
    "one_local_block": (70, {"blocksparse_num_local_blocks": 1}),
    "blocks_of_5_stride_3": (
        83,
        {
            "blocksparse_block_size": 5,
            "blocksparse_vert_stride": 3,
            "max_position_embeddings": 2000,
        },
    ),
    "stride_above_heads": (
        100,
        {"blocksparse_vert_stride": 9, "num_attention_heads": 4, "num_key_value_heads": 1},
    ),
    "every_key_local_or_striped": (60, {"blocksparse_vert_stride": 1}),
    "one_head_group": (70, {"num_attention_heads": 2, "num_key_value_heads": 2}),
    "three_heads_a_group": (
        75,
        {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2},
    ),
    "homogeneous_heads": (90, {"blocksparse_homo_head_pattern": True}),
    "no_mup_scaling": (70, {"mup_use_scaling": False}),
    "other_multipliers": (
        70,
        {
            "mup_width_multiplier": 3.0,
            "mup_embedding_multiplier": 2.0,
            "mup_attn_multiplier": 5.0,
            "gegelu_limit": 0.5,
        },
    ),
    "every_third_layer_dense": (
        70,
        {"num_hidden_layers": 4, "dense_attention_every_n_layers": 3},
    ),
    "every_layer_dense": (60, {"dense_attention_every_n_layers": 1}),
    "stretched_positions": (70, {"rope_position_scale": 0.5, "rope_embedding_base": 1000.0}),
    "longrope_short": (64, {"rope_scaling": LONGROPE, "rope_position_scale": 0.5}),
    "longrope_long": (65, {"rope_scaling": LONGROPE, "rope_position_scale": 0.5}),
    "longrope_own_magnitudes": (
        90,
        {"rope_scaling": {**LONGROPE, "type": "su", "long_mscale": 1.3, "short_mscale": 1.1}},
    ),
    "longrope_own_magnitudes_short": (
        50,
        {"rope_scaling": {**LONGROPE, "type": "su", "long_mscale": 1.3, "short_mscale": 1.1}},
    ),
}


def slow_but(size: int, *sizes: int) -> list[Any]:
    """Sizes of a pass, of which `make test` runs the first and `make test-all` all."""
    return [size, *(pytest.param(other, marks=pytest.mark.slow) for other in sizes)]


Case = tuple[Phi3SmallForCausalLM, torch.Tensor, np.ndarray]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    length, changes = CASES[request.param]
    model = tiny_model(**changes)
    ids = random_ids(length)
    config = model.config.to_dict()
    return model, ids, reference.logits(ids[0].tolist(), weights_of(model), config)


@pytest.fixture(params=["masks", "chunks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sparse layers with a mask for short texts, or chunk by chunk as for long ones."""
    if request.param == "chunks":
        monkeypatch.setattr(layout, "MASK_BUDGET", 0)
    return request.param


def comparable(case: Case) -> slice:
    """Positions whose own length puts them in the regime of the whole text."""
    model, ids, _ = case
    limit = model.config.short_context
    return slice(limit if ids.shape[1] > limit else 0, None)


def test_one_pass(case: Case, way: str) -> None:
    model, ids, expected = case
    assert passes.relative_error(passes.one_pass(model, ids), expected) < 1e-4


@pytest.mark.parametrize("size", slow_but(7, 1, 33))
def test_through_the_cache(case: Case, way: str, size: int) -> None:
    model, ids, expected = case
    kept = comparable(case)
    found = passes.in_chunks(model, ids, size)
    assert passes.relative_error(found[kept], expected[kept]) < 1e-4


@pytest.mark.parametrize("size", slow_but(1, 16))
def test_static_cache(case: Case, way: str, size: int) -> None:
    model, ids, expected = case
    kept = comparable(case)
    found = passes.static_cache(model, ids, size)
    assert passes.relative_error(found[kept], expected[kept]) < 1e-4


@pytest.mark.parametrize("size", [None, *slow_but(16, 1)])
def test_second_row_of_a_left_padded_batch(case: Case, way: str, size: int | None) -> None:
    model, ids, expected = case
    kept = comparable(case) if size else slice(None)
    found = passes.second_row(model, ids, padding=21, size=size)
    assert passes.relative_error(found[kept], expected[kept]) < 1e-4


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations(case: Case, implementation: str) -> None:
    model, ids, expected = case
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        found = passes.one_pass(model, ids)
    finally:
        model.set_attn_implementation(before)
    assert passes.relative_error(found, expected) < 1e-4
