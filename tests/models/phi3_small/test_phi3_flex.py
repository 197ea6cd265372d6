"""The fused kernel of sparse layers: its mask, when it is used, and that it is traced once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from phi3_tiny import random_ids, tiny_config, tiny_model
from prefix_models import runner_of
from scoring_models import ragged_windows
from torch.nn.attention.flex_attention import BlockMask

from evalkit.inference.engines import Eager
from evalkit.inference.prefix_cache import recording
from evalkit.models.phi3_small import Phi3SmallConfig, flex, layout
from evalkit.models.phi3_small.sparse import BlockPattern, chunked_attention, visible
from evalkit.scoring.engine import score_windows

RELEASED = BlockPattern.from_config(Phi3SmallConfig())
SMALL = BlockPattern.from_config(tiny_config(blocksparse_block_size=16))


def states(heads: int, length: int, width: int, seed: int = 0, rows: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, heads, length, width, generator=generator)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that are traced of the kernel, run as they are, on the CPU as on a card."""
    made: list[Any] = []

    def count(graph: Any, _: Any) -> Any:
        made.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(flex.attend, fullgraph=True, backend=count)
    monkeypatch.setattr(flex, "_compiled", lambda: compiled)
    # Passes as short as these would take one mask.
    monkeypatch.setattr(layout, "MASK_BUDGET", 0)
    monkeypatch.setattr(flex, "applies", lambda q, k, *_, **__: q.shape[2] == k.shape[2])
    return made


@pytest.mark.parametrize("length", [100, 128, 203])
def test_the_needed_blocks_are_those_with_a_visible_key(length: int) -> None:
    blocks = flex.needed_blocks(SMALL, length, torch.device("cpu"))
    mask = BlockMask.from_kv_blocks(*blocks, BLOCK_SIZE=16, seq_lengths=(length, length))
    starts = torch.arange(0, length, 16)[None]
    assert torch.equal(mask.to_dense().bool(), visible(SMALL, starts, starts))


def test_flex_equals_chunks_and_is_traced_once_for_all_lengths_and_batches(
    graphs: list[Any],
) -> None:
    for rows, length in [(1, 100), (3, 128), (1, 203)]:
        query, key = states(8, length, 16, rows=rows), states(2, length, 16, 1, rows)
        value = states(2, length, 16, 2, rows)
        found = flex.flex_attention(query, key, value, SMALL, scaling=0.2)
        expected = chunked_attention(query, key, value, SMALL, scaling=0.2)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1


def test_scoring_tasks_and_speed_of_one_process_share_one_trace(graphs: list[Any]) -> None:
    model = tiny_model(blocksparse_block_size=16, blocksparse_num_local_blocks=2, vocab_size=600)
    runner = runner_of(model)
    # Windows of a text, one length and then several in a batch.
    windows = ragged_windows([60, 90, 91])
    assert list(score_windows(model, windows, batch_tokens=200, statistics={"nll"}))
    # A task's prompt, whose keys and values are kept; a prompt of the speed measurement.
    assert runner.states(recording(), {"input_ids": random_ids(70, 2)}).shape[:2] == (2, 70)
    with torch.inference_mode():
        assert Eager(model).start(random_ids(80, 2)).shape == (2, 1)
    assert len(graphs) == 1


def test_flex_is_not_used_on_the_cpu() -> None:
    query = states(8, 64, 16)
    assert not flex.applies(query, query, RELEASED, dropout=0.0)


@pytest.mark.parametrize("missing", [None, "a C compiler (gcc)"])
def test_flex_without_a_compiler_is_replaced_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, missing: str | None
) -> None:
    flex.missing_tools.cache_clear()
    monkeypatch.setattr(flex, "missing_for_triton", lambda: missing)
    monkeypatch.setattr(flex, "has_triton", lambda: True)
    on_card: Any = SimpleNamespace(is_cuda=True, shape=(1, 8, 2048, 16))
    assert flex.applies(on_card, on_card, RELEASED, dropout=0.0) is (missing is None)
    note = flex.fallback_note(torch.device("cuda"), RELEASED)
    assert note == "" if missing is None else "beyond 1,024 tokens" in note and missing in note
    assert flex.fallback_note(torch.device("cpu"), RELEASED) == ""
    flex.missing_tools.cache_clear()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("length", [1100, 2048])
def test_flex_equals_chunks_on_cuda(length: int) -> None:
    query, key = states(32, length, 64).cuda(), states(8, length, 64, seed=1).cuda()
    assert flex.applies(query, key, RELEASED, dropout=0.0)
    found = flex.flex_attention(query, key, key, RELEASED, scaling=0.1)
    expected = chunked_attention(query, key, key, RELEASED, scaling=0.1)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
