"""Crossing from the short to the long factors while a cache is in use."""

from __future__ import annotations

import copy

import pytest
import torch
from phi3_tiny import LONGROPE, random_ids, tiny_model
from transformers import DynamicCache, StaticCache

from evalkit.errors import UsageError
from evalkit.models.phi3_small import Phi3SmallForCausalLM

LIMIT = 64


@pytest.fixture(scope="module")
def model() -> Phi3SmallForCausalLM:
    return tiny_model(rope_scaling=LONGROPE)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def last_logits(model: Phi3SmallForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the last token in one forward pass."""
    return model(ids, use_cache=False, logits_to_keep=1).logits[:, 0]


@pytest.mark.parametrize("static", [False, True])
def test_every_step_of_a_cached_run_equals_one_pass(
    model: Phi3SmallForCausalLM, static: bool
) -> None:
    ids = random_ids(LIMIT + 12)
    cache = StaticCache(model.config, 90) if static else DynamicCache(config=model.config)
    with torch.inference_mode():
        model(ids[:, :58], past_key_values=cache)
        for at in range(58, ids.shape[1]):
            found = model(ids[:, at : at + 1], past_key_values=cache).logits[:, 0]
            close(found, last_logits(model, ids[:, : at + 1]))
            assert int(cache.get_seq_length()) == at + 1


def test_the_switch_matters(model: Phi3SmallForCausalLM) -> None:
    ids = random_ids(LIMIT + 1)
    with torch.inference_mode():
        long, short = model(ids).logits[:, :LIMIT], model(ids[:, :LIMIT]).logits
    assert (long - short).abs().max() > 1e-2


@pytest.mark.parametrize("size", [5, 64, 65])
def test_a_chunk_may_cross(model: Phi3SmallForCausalLM, size: int) -> None:
    ids = random_ids(100)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        parts = [model(part, past_key_values=cache).logits for part in ids.split(size, dim=1)]
        close(torch.cat(parts, dim=1)[:, LIMIT + 1 :], model(ids).logits[:, LIMIT + 1 :])


@pytest.mark.parametrize("cache", [None, "static"])
def test_padded_rows_cross_each_at_its_own_length(
    model: Phi3SmallForCausalLM, cache: str | None
) -> None:
    ids = random_ids(60, rows=2)
    mask = torch.ones_like(ids)
    mask[1, :9] = 0
    options = {"max_new_tokens": 24, "pad_token_id": 0, "eos_token_id": None}
    made = model.generate(
        ids, attention_mask=mask, do_sample=False, cache_implementation=cache, **options
    )
    with torch.inference_mode():
        for row, start in ((0, 0), (1, 9)):
            for at in range(60, 84):
                logits = last_logits(model, made[row : row + 1, start:at])
                assert logits.argmax() == made[row, at], (row, at)


def test_right_padded_rows_keep_their_own_regime(model: Phi3SmallForCausalLM) -> None:
    ids = random_ids(80, rows=2)
    mask = torch.ones_like(ids)
    mask[1, 40:] = 0
    with torch.inference_mode():
        logits = model(ids, attention_mask=mask).logits
        close(logits[0], model(ids[:1]).logits[0])
        close(logits[1, :40], model(ids[1:, :40]).logits[0])


def test_beams_cross(model: Phi3SmallForCausalLM) -> None:
    options = {
        "num_beams": 3,
        "max_new_tokens": 12,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    ids = random_ids(58)
    cached = model.generate(ids, **options)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **options))


def test_a_copied_repeated_cropped_cache_crosses(model: Phi3SmallForCausalLM) -> None:
    prefix, ends = random_ids(60), random_ids(10, rows=2, seed=3)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(torch.cat((prefix, ends[:1, :2]), 1), past_key_values=cache)
        cache = copy.deepcopy(cache)
        cache.crop(-2)
        cache.batch_repeat_interleave(2)
        found = model(ends, past_key_values=cache).logits
        close(found, model(torch.cat((prefix.expand(2, -1), ends), 1)).logits[:, 60:])


def test_a_cache_without_ids_cannot_cross(model: Phi3SmallForCausalLM) -> None:
    ids, cache = random_ids(70), DynamicCache(config=model.config)
    with torch.inference_mode():
        embeds = model.get_input_embeddings()(ids)
        model(inputs_embeds=embeds[:, :60], past_key_values=cache)
        with pytest.raises(UsageError, match="give input_ids"):
            model(inputs_embeds=embeds[:, 60:], past_key_values=cache)
        with pytest.raises(UsageError, match="a cache of 60 tokens without their ids"):
            model(ids[:, 60:], past_key_values=cache)
