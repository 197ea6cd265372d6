"""Block-sparse attention through FlexAttention: one fused kernel for whole prompts on CUDA.

The kernel is traced and compiled once a process: lengths are marked as such before the first call,
rows of a batch follow one another (a batch of one would be traced apart), and keys and values have
one layout, whether they come from a cache or not. What Inductor and Triton make of it they keep
on the disk themselves (TORCHINDUCTOR_CACHE_DIR and TRITON_CACHE_DIR, by default in the folder for
temporary files), so that a second process traces and then finds its kernel there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention.flex_attention import BlockMask
from torch.utils._triton import has_triton

from evalkit.models.phi3_small.sparse import BlockPattern, visible
from evalkit.models.toolchain import missing_for_triton


@cache
def missing_tools() -> str:
    """What this machine lacks to build the fused kernel, in words; empty where nothing is."""
    return missing_for_triton() or ""


def fallback_note(device: torch.device, pattern: BlockPattern) -> str:
    """What to say of a model on `device` whose sparse layers run without the fused kernel."""
    if device.type != "cuda" or not missing_tools():
        return ""
    return (
        f"prompts beyond {pattern.local_span:,} tokens: block-sparse attention in plain torch, as"
        f" FlexAttention needs {missing_tools()}"
    )


def applies(query: Tensor, key: Tensor, pattern: BlockPattern, *, dropout: float) -> bool:
    """Whether the fused kernel can run: CUDA with Triton, a whole prompt, no dropout.

    Its tiles are powers of two from 16, so the block size must be one too.
    """
    size = pattern.block_size
    return (
        query.is_cuda
        and query.shape[2] == key.shape[2]
        and dropout == 0.0
        and size >= 16
        and size & (size - 1) == 0
        and has_triton()
        and not missing_tools()
    )


class NeededBlocks(NamedTuple):
    """Key blocks that each block of queries needs, int32: counts (1, heads, rows) and indices.

    Indices (1, heads, rows, key blocks) begin with those counted. Of `partial` blocks the order of
    tokens decides what is seen, of `full` ones everything is.
    """

    partial_counts: Tensor
    partial_indices: Tensor
    full_counts: Tensor
    full_indices: Tensor


@lru_cache(maxsize=2)
def needed_blocks(pattern: BlockPattern, length: int, device: torch.device) -> NeededBlocks:
    """The pattern for a prompt of `length` tokens, built block by block.

    `create_block_mask` would first hold a mask of every query and key of every head.
    """
    starts = torch.arange(0, length, pattern.block_size, device=device)[None]
    needed = visible(pattern, starts, starts)
    diagonal = torch.eye(starts.shape[1], dtype=torch.bool, device=device)
    return NeededBlocks(*_indices(needed & diagonal), *_indices(needed & ~diagonal))


def _indices(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Count and indices, in order, of the chosen key blocks: (1, heads, rows[, key blocks])."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), order.to(torch.int32)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: NeededBlocks,
    pattern: BlockPattern,
    scaling: float,
) -> Tensor:
    """What is compiled: attention of one row; shapes as in `flex_attention`, its batch 1.

    The mask is made in here so that its length is that of the query, and as free.
    """
    size, length = pattern.block_size, query.shape[2]

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        local = query // size - key // size < pattern.num_local_blocks
        offset = pattern.first + head * pattern.step
        stripe = (key // size + offset + 1) % pattern.vert_stride == 0
        return (key <= query) & (local | stripe)

    mask = BlockMask.from_kv_blocks(
        *blocks,
        BLOCK_SIZE=(size, size),
        mask_mod=sees,
        seq_lengths=(length, length),
        # Those of the backward pass.
        compute_q_blocks=False,
    )
    tile = min(size, 64)
    attended = torch_flex.flex_attention(
        query,
        key,
        value,
        block_mask=mask,
        scale=scaling,
        enable_gqa=True,
        kernel_options={"BLOCK_M": tile, "BLOCK_N": tile},
    )
    assert isinstance(attended, Tensor)
    return attended


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(attend, fullgraph=True)


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: BlockPattern,
    *,
    scaling: float,
) -> Tensor:
    """Exact block-sparse attention of unpadded rows in one fused kernel.

    Args:
        query: (batch, heads, length, head_dim), a whole prompt.
        key: (batch, key/value heads, length, head_dim).
        value: like `key`.
        pattern: the block geometry.
        scaling: factor on the scores.

    Returns:
        (batch, length, heads, head_dim).
    """
    blocks = needed_blocks(pattern, query.shape[2], query.device)
    key, value = key.contiguous(), value.contiguous()
    rows = [
        _row(*states, blocks=blocks, pattern=pattern, scaling=scaling)
        for states in zip(query.split(1), key.split(1), value.split(1), strict=True)
    ]
    return (rows[0] if len(rows) == 1 else torch.cat(rows)).transpose(1, 2)


def _row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    blocks: NeededBlocks,
    pattern: BlockPattern,
    scaling: float,
) -> Tensor:
    """`attend` by the compiled kernel, its lengths marked as such."""
    if torch.compiler.is_compiling():
        # Who compiles the model compiles this with it.
        return attend(query, key, value, blocks, pattern, scaling)
    for states in (query, key, value):
        torch._dynamo.maybe_mark_dynamic(states, 2)
    for counts, indices in (blocks[:2], blocks[2:]):
        torch._dynamo.maybe_mark_dynamic(counts, 2)
        torch._dynamo.maybe_mark_dynamic(indices, (2, 3))
    return _compiled()(query, key, value, blocks, pattern, scaling)
