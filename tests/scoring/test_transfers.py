"""What one scored batch brings to a card and reads from it, on a card that is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from host_reads import Card
from scoring_models import build, disturbed, ragged_windows
from test_engine import STATISTICS, compare, joined, record

from evalkit.scoring import head
from evalkit.scoring.block import Block
from evalkit.scoring.engine import score_windows
from evalkit.scoring.reference import Reference
from evalkit.scoring.statistics import find_statistic

LENGTHS = (40, 40, 40, 38, 17, 9)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    """A card whose memory admits 64 rows of logits at once."""
    free = SimpleNamespace(free=lambda: 0)
    monkeypatch.setattr(head, "memory_of", lambda device: free if device.type == "cuda" else None)
    return Card()


@pytest.mark.parametrize(
    # Llama's forward in transformers looks for texts packed into one row before it begins.
    ("name", "of_transformers"),
    [("phi-3-small", []), ("llama-tied", ["is_nonzero"])],
)
def test_a_batch_is_queued_whole_and_read_once(
    name: str, of_transformers: list[str], card: Card, tmp_path: Path
) -> None:
    model, windows = build(name), ragged_windows(LENGTHS)
    variant = disturbed(model, 0.03)
    record(model, windows, tmp_path / "r")
    expected = compare(variant, windows, tmp_path / "r", batch_tokens=160)
    card.take(variant)
    batches: list[Any] = []
    with card:
        reference = Reference.open(tmp_path / "r", variant, windows)
        assert reference.forward.rows_at_once == 64
        scored = score_windows(
            variant, windows, batch_tokens=160, statistics=STATISTICS, reference=reference
        )
        for place, several in enumerate((True, False)):
            card.clear()
            batches.append(next(scored))
            assert (len(batches[place].windows) > 1) is several
            rows = len(batches[place].columns["window"])
            chunks = -(-rows // 64)
            assert chunks == (2 if several else 1)
            # Every statistic of every chunk in one transfer.
            assert card.reads == [*of_transformers, "to"]
            assert card.writes == []
            # Ids, places of scored tokens among several rows, targets; a chunk of the reference.
            assert len(card.queued) == 2 + several + chunks
        batches += scored
    found = joined(batches)
    for column, values in expected.items():
        np.testing.assert_allclose(found[column], values, 1e-4, 2e-6, err_msg=column)


def test_ids_masked_at_minus_infinity_are_left_out_without_a_look(card: Card) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, theirs = (torch.randn(5, 40, generator=generator) for _ in range(2))
    # Masked in both, by the reference only, and in the last row by the model only.
    logits[:, :2] = theirs[:, :3] = logits[4, 7] = -torch.inf
    targets = torch.arange(10, 15)

    def divergence(*given: torch.Tensor) -> torch.Tensor:
        block = Block(5, 40, given[0].device, two=True)
        block.fill(*given)
        return find_statistic("kl")(block)

    expected = divergence(logits, targets, theirs)
    assert expected.isfinite().tolist() == [True] * 4 + [False]
    with torch.inference_mode(), card:
        on_card = [one.to("cuda") for one in (logits, targets, theirs)]
        card.clear()
        found = divergence(*on_card)
        assert card.reads == []
        torch.testing.assert_close(found.cpu(), expected)
