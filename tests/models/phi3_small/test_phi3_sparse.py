"""The block pattern itself, and what its computation skips and holds."""

from __future__ import annotations

from itertools import accumulate

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from phi3_tiny import tiny_config
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from evalkit.models.phi3_small import Phi3SmallConfig
from evalkit.models.phi3_small.sparse import BlockPattern, chunked_attention, visible

RELEASED = BlockPattern.from_config(Phi3SmallConfig())


def states(heads: int, length: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, heads, length, width, generator=generator)


def needed_blocks(pattern: BlockPattern, blocks: int) -> int:
    """Pairs of query and key blocks that any token of them needs, over all heads."""
    starts = torch.arange(blocks)[None] * pattern.block_size
    return int(visible(pattern, starts, starts).sum())


def test_the_released_pattern() -> None:
    assert RELEASED.offsets == tuple(head % 8 for head in range(32))
    assert RELEASED.local_span == 1024
    assert RELEASED.chunk_size == 256
    causal = 32 * 128 * 129 // 2
    assert 0.32 < needed_blocks(RELEASED, 128) / causal < 0.33


def test_plain_causal_up_to_the_local_span_and_not_beyond() -> None:
    positions = torch.arange(1025)[None]
    causal = positions[:, None] <= positions[..., None]
    seen = visible(RELEASED, positions, positions)
    assert torch.equal(seen[..., :1024, :1024], causal[:, None, :1024, :1024].expand(1, 32, -1, -1))
    assert not torch.equal(seen[:, :1, 1024], causal[:, None, 1024])


def test_heads_of_one_offset_share_a_pattern() -> None:
    pattern = BlockPattern.from_config(tiny_config())
    assert pattern.heads_by_offset() == {0: [0, 4], 1: [1, 5], 2: [2, 6], 3: [3, 7]}
    same = BlockPattern.from_config(tiny_config(blocksparse_homo_head_pattern=True))
    assert same.heads_by_offset() == {0: list(range(8))}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_chunks_equal_a_mask_over_everything(data: st.DataObject) -> None:
    heads, groups = data.draw(st.sampled_from([(4, 4), (6, 2), (8, 1)]))
    stride = data.draw(st.integers(1, 10))
    step = data.draw(st.sampled_from([0, 1, 2, 3]))
    pattern = BlockPattern(
        block_size=data.draw(st.sampled_from([1, 4, 7, 64])),
        num_local_blocks=data.draw(st.integers(1, 9)),
        vert_stride=stride,
        heads=heads,
        step=step,
    )
    total = data.draw(st.integers(1, 400))
    past = data.draw(st.integers(0, total - 1))
    query, key = states(heads, total, 8)[:, :, past:], states(groups, total, 8, seed=1)
    value = states(groups, total, 8, seed=2)
    found = chunked_attention(query, key, value, pattern, scaling=0.3)
    positions = torch.arange(total)[None]
    seen = visible(pattern, positions[:, past:], positions)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=1e-4, atol=1e-5)


class ScoreCounter(TorchDispatchMode):
    """Count the query-key pairs handed to the attention kernel."""

    pairs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if "scaled_dot_product" in func.name():
            batch, heads, queries, _ = args[0].shape
            causal = len(args) > 4 and args[4]
            self.pairs += batch * heads * queries * args[1].shape[2] // (2 if causal else 1)
        return func(*args, **(kwargs or {}))


def test_skipped_blocks_are_really_skipped() -> None:
    query, key = states(32, 8192, 4), states(8, 8192, 4, seed=1)
    with ScoreCounter() as counter:
        chunked_attention(query, key, key, RELEASED, scaling=0.1)
    needed = needed_blocks(RELEASED, 128) * 64 * 64
    assert 0.95 * needed < counter.pairs < 1.15 * needed


def test_memory_stays_small() -> None:
    """Peak of 32 heads at 8k tokens; heads an eighth as wide as the released ones keep it quick.

    A mask of every head, query and key would take 2 GB.
    """
    query, key = states(32, 8192, 16), states(8, 8192, 16, seed=1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        output = chunked_attention(query, key, key, RELEASED, scaling=0.1)
    events = profiler.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    peak = max(accumulate(change for _, change in sorted(changes)))
    assert output.nbytes < peak < output.nbytes + 32 * 2**20
