"""Large tensors are looked at in slices: the answers of a whole look, without its memory."""

from __future__ import annotations

import pytest
import torch

from evalkit.models import slices
from evalkit.models.activations import LiveBytes
from evalkit.models.slices import finite_and_some, same_numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(), (7,), (300, 5), (3, 4, 50)])
def test_answers_of_a_whole_look(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE", 64)
    plain = torch.zeros(shape)
    assert finite_and_some(plain.to(dtype)) == (True, False)
    plain.view(-1)[-1] = 2.0
    assert finite_and_some(plain.to(dtype)) == (True, True)
    assert same_numbers(plain.to(dtype), plain)
    assert not same_numbers(plain, torch.zeros(shape))
    plain.view(-1)[-1] = float("nan")
    assert finite_and_some(plain.to(dtype))[0] is False


def test_a_look_takes_the_memory_of_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE", 1000)
    embedding = torch.ones((1000, 100), dtype=torch.float16)
    other = embedding.clone()
    with LiveBytes() as live:
        finite_and_some(embedding)
        same_numbers(embedding, other)
    # Two slices in float32, and what torch makes of one in between.
    assert max(live.alive) <= 4 * 4 * 1000
