"""The batch plan: complete, within the budget, the same for every variant."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scoring_models import build, windows_of
from transformers import LlamaConfig, Phi3Config

from evalkit.scoring.batching import padded_inputs, plan_batches, short_rope_length

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 300), st.sampled_from([None, 10, 30]))
def test_every_window_is_in_one_batch_within_the_budget(
    lengths: list[int], budget: int, boundary: int | None
) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    batches = plan_batches(sizes, budget, boundary=boundary)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest, shortest = sizes[batch].max(), sizes[batch].min()
        assert len(batch) == 1 or len(batch) * longest <= budget
        assert shortest >= 0.75 * longest
        assert boundary is None or (longest <= boundary) == (shortest <= boundary)
    assert [int(sizes[b].max()) for b in batches] == sorted(
        (int(sizes[b].max()) for b in batches), reverse=True
    )


@given(LENGTHS, st.integers(1, 300), st.data())
def test_done_windows_are_left_out_and_untouched_batches_stay(
    lengths: list[int], budget: int, data: st.DataObject
) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    done = data.draw(st.sets(st.integers(0, len(lengths) - 1)))
    whole = {tuple(batch) for batch in plan_batches(sizes, budget)}
    left = [tuple(batch) for batch in plan_batches(sizes, budget, done=done)]
    assert sorted(i for batch in left for i in batch) == sorted(set(range(len(sizes))) - done)
    assert {batch for batch in whole if done.isdisjoint(batch)} <= set(left)


def test_equal_lengths_fill_the_budget_in_order() -> None:
    batches = plan_batches(np.full(7, 50), 150)
    assert [list(batch) for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]


def test_inputs_are_all_tokens_but_the_last_padded_on_the_right() -> None:
    windows = windows_of([[5, 6, 7, 8], [9, 10]])
    ids, mask = padded_inputs(windows, np.array([0, 1]), torch.device("cpu"), masked=True)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 9]]
    assert mask is not None
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_no_mask_for_equal_lengths_or_where_padding_is_invisible() -> None:
    cpu = torch.device("cpu")
    assert (
        padded_inputs(windows_of([[5, 6], [9, 8]]), np.array([0, 1]), cpu, masked=True)[1] is None
    )
    ragged = windows_of([[5, 6], [9, 8, 7]])
    assert padded_inputs(ragged, np.array([0, 1]), cpu, masked=False)[1] is None


def test_short_rope_length_is_that_of_longrope_models_only() -> None:
    rope = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 64,
    }
    config = Phi3Config(
        hidden_size=32,
        num_attention_heads=4,
        max_position_embeddings=128,
        original_max_position_embeddings=64,
        rope_parameters=rope,
        pad_token_id=0,
    )
    assert short_rope_length(config) == 64
    assert short_rope_length(LlamaConfig()) is None
    assert short_rope_length(build("phi-3-small").config) is None
