"""Block-sparse attention through FlexAttention: one fused kernel for whole prompts on CUDA."""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.utils._triton import has_triton
from transformers.integrations.flex_attention import compile_friendly_flex_attention

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


def applies(
    query: torch.Tensor, key: torch.Tensor, pattern: BlockPattern, *, dropout: float
) -> bool:
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


@lru_cache(maxsize=2)
def block_mask(pattern: BlockPattern, length: int, device: torch.device) -> BlockMask:
    """The pattern for a prompt of `length` tokens, built block by block.

    `create_block_mask` would first hold a mask of every query and key of every head.
    """
    size = pattern.block_size
    offsets = torch.tensor(pattern.offsets, device=device)

    def sees(
        batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        local = query // size - key // size < pattern.num_local_blocks
        stripe = (key // size + offsets[head] + 1) % pattern.vert_stride == 0
        return (key <= query) & (local | stripe)

    starts = torch.arange(0, length, size, device=device)[None]
    needed = visible(pattern, starts, starts)
    diagonal = torch.eye(starts.shape[1], dtype=torch.bool, device=device)
    return BlockMask.from_kv_blocks(
        *_indices(needed & diagonal),
        *_indices(needed & ~diagonal),
        BLOCK_SIZE=(size, size),
        mask_mod=sees,
        seq_lengths=(length, length),
    )


def _indices(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Count and indices, in order, of the chosen key blocks: (1, heads, rows[, key blocks])."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), order.to(torch.int32)


def flex_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pattern: BlockPattern,
    *,
    scaling: float,
) -> torch.Tensor:
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
    mask = block_mask(pattern, query.shape[2], query.device)
    tile = min(pattern.block_size, 64)
    attended = compile_friendly_flex_attention(
        query,
        key,
        value,
        block_mask=mask,
        scale=scaling,
        enable_gqa=True,
        kernel_options={"BLOCK_M": tile, "BLOCK_N": tile},
    )
    return attended.transpose(1, 2)
