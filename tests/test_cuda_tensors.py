"""What is computed otherwise on a card: the same numbers, on tensors that say they lie there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from host_reads import Card
from scoring_models import build

from evalkit.inference.prefix_cache import KeyValues, aligning
from evalkit.models.phi3_small import sparse
from evalkit.models.phi3_small.sparse import BlockPattern, chunked_attention
from evalkit.running.bench import machine_rates
from evalkit.scoring.head import open_forward


def random_states(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("rows", "width"), [([1, 0, 1], 4), ([0, 2], 7)])
def test_a_card_gathers_slots_of_all_rows_at_once(rows: list[int], width: int) -> None:
    keys = random_states(3, 2, 6, 4)
    source = KeyValues([(keys, keys)], ends=[6, 5, 4], lengths=[3, 5, 4])
    expected = keys.new_zeros(len(rows), 2, width, 4)
    aligning(source, rows, width)(keys, expected)
    with torch.inference_mode(), Card() as card:
        there = keys.to("cuda")
        found = torch.zeros(expected.shape, device=there.device)
        card.clear()
        aligning(KeyValues([(there, there)], source.ends, source.lengths), rows, width)(
            there, found
        )
        # Which rows, and where each begins.
        assert (card.reads, card.writes, len(card.queued)) == ([], [], 1)
        found = found.cpu()
    for place, row in enumerate(rows):
        # What lies before the first token of a row is masked.
        real = min(source.ends[row], width)
        assert torch.equal(found[place, :, width - real :], expected[place, :, width - real :])


def test_rows_of_a_mask_are_aligned_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[torch.Tensor] = []
    attend = sparse.scaled_dot_product_attention

    def remembered(*states: Any, **words: Any) -> torch.Tensor:
        masks.extend(states[3:])
        return attend(*states, **words)

    monkeypatch.setattr(sparse, "scaled_dot_product_attention", remembered)
    pattern = BlockPattern(4, 2, 3, 4, 1)
    states = random_states(1, 4, 30, 8), random_states(1, 2, 30, 8), random_states(1, 2, 30, 8)
    expected = chunked_attention(*states, pattern, scaling=0.3)
    assert not all(mask.is_contiguous() for mask in masks)
    masks.clear()
    with torch.inference_mode(), Card() as card:
        there = [one.to("cuda") for one in states]
        card.clear()
        found = chunked_attention(*there, pattern, scaling=0.3)  # type: ignore[call-arg,misc]
        assert card.reads == []
        torch.testing.assert_close(found.cpu(), expected)
    assert masks and all(mask.is_contiguous() for mask in masks)


def test_a_card_takes_its_own_head_for_few_rows() -> None:
    model = build("llama-tied")
    forward = open_forward(model, torch.arange(4, 12))
    rows = random_states(3, 32)
    assert forward._few_rows_head is not None
    del forward.__dict__["_few_rows_head"]
    Card.take(model)
    with torch.inference_mode(), Card():
        forward.next_logits(rows.to("cuda"))
    assert "_few_rows_head" not in forward.__dict__


def test_bandwidth_of_a_card_is_that_of_a_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine_rates, "_READ_BYTES", {"cuda": 2**12})
    monkeypatch.setattr(machine_rates, "_MATRIX", {"cuda": 8})
    monkeypatch.setattr(machine_rates, "_best", lambda run, _: (run(), 2.0)[1])
    with torch.inference_mode(), Card() as card:
        found = machine_rates.measure_rates("cuda", "a card")
    assert found.bandwidth == 2**12
    assert found.flops == dict.fromkeys(machine_rates._DTYPES, 8.0**3)
    assert found.method.startswith("copy of 1 GiB")
    assert card.reads == card.writes == []
