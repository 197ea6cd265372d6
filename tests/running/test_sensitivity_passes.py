"""An exchange equals a whole pass of a model that holds the weights, in any architecture."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import scoring_models
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from zoo.build import small_config

from evalkit.models.plain_weights import PlainWeights, exchanged
from evalkit.records.sensitivity import By, Direction
from evalkit.running.sensitivity.passes import OneBatch, Passes
from evalkit.running.sensitivity.pieces import WHOLE, Exchange, differences, everything, pieces_of

WINDOWS = scoring_models.ragged_windows((20, 20, 20))
EVERY = frozenset(range(len(WINDOWS)))
PIECES = 3
# Fused experts, state beside attention, keys shared by layers, layers that share their weights,
# a state alone, transposed layers.
SWAPPED = (
    "llama-tied", "phi-3", "phi-3-small", "gemma-2", "opt",
    "qwen3_moe", "falcon_h1", "gemma3n_text", "zamba2", "rwkv", "gpt2",
)  # fmt: skip
RESTORED = ("llama-tied", "phi-3", "phi-3-small", "qwen3_moe", "falcon_h1")
CASES = [(name, "swap") for name in SWAPPED] + [(name, "restore") for name in RESTORED]


def model_of(name: str) -> PreTrainedModel:
    if name in scoring_models.CONFIGS:
        return scoring_models.build(name)
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(small_config(name)).float().eval()
    return model


def passes_of(
    model: PreTrainedModel, other: PreTrainedModel, by: By, direction: Direction
) -> tuple[Passes, tuple[Exchange, ...]]:
    found = differences(model, PlainWeights(other))
    pieces = pieces_of(found, by, cache=False)
    passes = Passes(found, WINDOWS, everything(pieces, WHOLE), direction, 256)
    passes.read_baseline(EVERY)
    return passes, pieces


def only_batch(passes: Passes) -> OneBatch:
    (batch,) = passes.batches(EVERY, 0)
    (one,) = passes.of_batch(batch)
    return one


@torch.inference_mode()
def whole_pass(model: PreTrainedModel, reference: PreTrainedModel) -> dict[str, Any]:
    """Mean divergence of `model` from `reference` over the scored tokens, by plain passes."""
    ids = np.stack([WINDOWS.window(i) for i in range(len(WINDOWS))]).astype(np.int64)
    tokens = torch.from_numpy(ids)
    log_q, log_p = (
        one(input_ids=tokens[:, :-1], use_cache=False).logits.double().log_softmax(-1)
        for one in (model, reference)
    )
    kl = torch.where(log_p.exp() > 0, log_p.exp() * (log_p - log_q), 0.0).sum(-1)
    nll = -log_q.gather(-1, tokens[:, 1:, None])[..., 0]
    scored = np.arange(1, ids.shape[1]) >= WINDOWS.score_from[:, None]
    return {"kl": kl[scored].numpy(), "nll": nll[scored].numpy()}


@pytest.mark.parametrize(("name", "direction"), CASES)
def test_an_exchange_equals_a_model_that_holds_the_weights(name: str, direction: Direction) -> None:
    model = model_of(name)
    other, untouched = scoring_models.disturbed(model, 0.02), copy.deepcopy(model)
    passes, pieces = passes_of(model, other, "module", direction)
    context, theirs = (copy.deepcopy(model), other) if direction == "swap" else (other, untouched)
    weights = PlainWeights(theirs)
    with passes.context():
        one = only_batch(passes)
        for piece in pieces[:: max(1, len(pieces) // PIECES)]:
            columns = one.swapped(piece)
            with exchanged(context, {name: weights[name] for name in piece.parameters}):
                wanted = whole_pass(context, untouched)
            order = np.lexsort((columns["position"], columns["window"]))
            assert np.mean(columns["kl"]) == pytest.approx(wanted["kl"].mean(), rel=1e-5, abs=1e-6)
            assert np.allclose(columns["nll"][order], wanted["nll"], atol=1e-4), piece.name
    # Everything is as it was.
    assert all(torch.equal(a, b) for a, b in zip(
        model.parameters(), untouched.parameters(), strict=True))  # fmt: skip
