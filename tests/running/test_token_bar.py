"""The bar of a pass over texts moves while a batch runs, and never back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evalkit.models.layers import every_layer
from evalkit.progress import Event
from evalkit.running.compare import token_bar
from evalkit.running.compare.token_bar import TokenBar


def test_every_layer_is_counted_while_the_block_runs() -> None:
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=3,
        num_attention_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    passed: list[tuple[int, int]] = []
    with torch.inference_mode():
        with every_layer(model, lambda *place: passed.append(place)):
            model(torch.zeros(1, 4, dtype=torch.long))
        model(torch.zeros(1, 4, dtype=torch.long))
    assert passed == [(0, 3), (1, 3), (2, 3)]


def test_a_batch_moves_the_bar_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(token_bar, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    told: list[Event] = []
    bar = TokenBar(Event("int4", "scoring", 0, 3000, "tokens"), told.append, 2000)
    for tokens in (2000, 1000):
        for layer in range(2):
            bar._layer(layer, 2)
        bar.advance(tokens)
    assert [event.done for event in told] == [0, 750, 1500, 2000, 2375, 2750, 3000]
    assert {event.total for event in told} == {3000}
