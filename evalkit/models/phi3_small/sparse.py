"""Block-sparse attention of Phi-3 Small: which keys a query sees, and how that is computed.

Tokens are cut into blocks of `block_size`. Query block i of head h sees key block j <= i when it
is local (i - j < num_local_blocks) or when it lies on the head's vertical stripes
((j + h * step + 1) % vert_stride == 0). Heads whose offset h * step is equal modulo the stride
share one pattern. Inside the last block the order of tokens decides, as in any causal attention.

A mask over the whole prompt would hold heads x length x length numbers and skip nothing. So a
prompt is cut into chunks of queries; for each chunk and each distinct pattern, only the visible
stripes and the local window are gathered and attended to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from evalkit.models.phi3_small.configuration import Phi3SmallConfig

CHUNK_TOKENS = 256
"""Queries per chunk at most: enough rows for an efficient matrix product, few wasted blocks."""


@dataclass(frozen=True)
class BlockPattern:
    """The block geometry of a model, or of the one head whose stripes are shifted by `first`.

    Head h's vertical stripes are shifted by first + h * step: arithmetic, not a list, so that no
    pass has to bring one to the device.
    """

    block_size: int
    num_local_blocks: int
    vert_stride: int
    heads: int
    step: int
    first: int = 0

    @classmethod
    def from_config(cls, config: Phi3SmallConfig) -> BlockPattern:
        """The pattern of a configuration, one offset for each attention head."""
        stride, heads = config.blocksparse_vert_stride, config.num_attention_heads
        step = 0 if config.blocksparse_homo_head_pattern else max(1, stride // heads)
        return cls(
            block_size=config.blocksparse_block_size,
            num_local_blocks=config.blocksparse_num_local_blocks,
            vert_stride=stride,
            heads=heads,
            step=step,
        )

    @property
    def offsets(self) -> tuple[int, ...]:
        """Each head's shift of the vertical stripes, modulo the stride."""
        return tuple(
            (self.first + head * self.step) % self.vert_stride for head in range(self.heads)
        )

    @property
    def local_span(self) -> int:
        """Total length, in tokens, up to which the pattern is plain causal attention."""
        return self.num_local_blocks * self.block_size

    @property
    def chunk_size(self) -> int:
        """Queries per chunk: whole blocks, few beside the local window so that little is wasted."""
        blocks = min(CHUNK_TOKENS // self.block_size, self.num_local_blocks // 4)
        return max(1, blocks) * self.block_size

    def heads_by_offset(self) -> dict[int, list[int]]:
        """The heads of each distinct pattern."""
        heads: dict[int, list[int]] = {}
        for head, offset in enumerate(self.offsets):
            heads.setdefault(offset, []).append(head)
        return heads

    def first_stripe(self, offset: int) -> int:
        """The first key block on the vertical stripes of an offset."""
        return (-offset - 1) % self.vert_stride


def visible(pattern: BlockPattern, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Which keys each head sees, from the positions of queries and keys.

    Args:
        pattern: the block geometry.
        queries: (batch, query length) positions counted from the first real token.
        keys: (batch, key length) positions likewise.

    Returns:
        (batch, heads, query length, key length) booleans.
    """
    heads = torch.arange(pattern.heads, device=keys.device)[:, None]
    offsets = heads * pattern.step + pattern.first
    query_blocks = queries // pattern.block_size
    key_blocks = keys // pattern.block_size
    stripes = (key_blocks[:, None] + offsets + 1) % pattern.vert_stride == 0
    local = query_blocks[:, :, None] - key_blocks[:, None, :] < pattern.num_local_blocks
    causal = keys[:, None, :] <= queries[:, :, None]
    return (local[:, None] | stripes[:, :, None, :]) & causal[:, None]


def additive(visible_keys: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Zeros where a key is visible and the dtype's minimum elsewhere, same shape."""
    mask = torch.zeros(visible_keys.shape, dtype=dtype, device=visible_keys.device)
    return mask.masked_fill_(~visible_keys, torch.finfo(dtype).min)


def _selector(heads: list[int]) -> slice | list[int]:
    """Evenly spaced heads as a slice, which copies nothing."""
    step = heads[1] - heads[0] if len(heads) > 1 else 1
    spaced = step > 0 and heads == list(range(heads[0], heads[-1] + 1, step))
    return slice(heads[0], heads[-1] + 1, step) if spaced else heads


class _HeadGroup:
    """The heads of one pattern, with their vertical stripes gathered once for all chunks."""

    def __init__(
        self,
        pattern: BlockPattern,
        offset: int,
        heads: list[int],
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> None:
        per_group = pattern.heads // key.shape[1]
        size, stride = pattern.block_size, pattern.vert_stride
        self.pattern = BlockPattern(size, pattern.num_local_blocks, stride, 1, 0, offset)
        self.heads = _selector(heads)
        self.key_value_heads = _selector([head // per_group for head in heads])
        blocks = key.shape[2] // size
        self.room = -(-blocks // stride) * size
        self.stripes = [
            states[:, self.key_value_heads, : blocks * size]
            .unflatten(2, (blocks, size))[:, :, self.pattern.first_stripe(offset) :: stride]
            .flatten(2, 3)
            for states in (key, value)
        ]

    def gather(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        start: int,
        end: int,
        masks: dict[tuple[int, ...], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, keys, values and mask for the group's part of the queries start … end.

        `masks` keeps masks of local windows, with room for visible stripes before them: chunks
        of the same length, start inside the window and phase of the stripes share one, across
        groups too.
        """
        size, stride, offset = (
            self.pattern.block_size,
            self.pattern.vert_stride,
            self.pattern.first,
        )
        first = max(0, start // size - self.pattern.num_local_blocks + 1)
        window = slice(first * size, end)
        length = size * len(range(self.pattern.first_stripe(offset), first, stride))
        keys, values = (
            torch.cat((stripe[:, :, :length], states[:, self.key_value_heads, window]), dim=2)
            for stripe, states in zip(self.stripes, (key, value), strict=True)
        )
        shape = ((first + offset) % stride, start - window.start, end - start)
        if shape not in masks:
            positions = torch.arange(window.start, end, device=query.device)[None]
            seen = visible(self.pattern, positions[:, start - window.start :], positions)
            masks[shape] = pad(additive(seen, query.dtype), (self.room, 0))
        mask = masks[shape][..., self.room - length :]
        # CUDA kernels want rows of a mask aligned.
        return query[:, self.heads], keys, values, mask if mask.is_cpu else mask.contiguous()


def chunked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pattern: BlockPattern,
    *,
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Exact block-sparse attention of unpadded rows, chunk by chunk and pattern by pattern.

    Args:
        query: (batch, heads, query length, head_dim); the last queries of the sequence.
        key: (batch, key/value heads, total length, head_dim).
        value: like `key`.
        pattern: the block geometry.
        scaling: factor on the scores.
        dropout: probability of dropping an attention weight.

    Returns:
        (batch, query length, heads, head_dim).
    """
    attend = partial(scaled_dot_product_attention, scale=scaling, dropout_p=dropout)
    total, past = key.shape[2], key.shape[2] - query.shape[2]
    output = query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])
    start = past
    if past == 0:
        start = min(total, pattern.local_span)
        causal = attend(*_first(start, query, key, value), is_causal=True, enable_gqa=True)
        output[:, :start] = causal.transpose(1, 2)
    groups = [
        _HeadGroup(pattern, offset, heads, key, value)
        for offset, heads in pattern.heads_by_offset().items()
    ]
    masks: dict[tuple[int, ...], torch.Tensor] = {}
    while start < total:
        end = min(total, (start // pattern.chunk_size + 1) * pattern.chunk_size)
        chunk = slice(start - past, end - past)
        for group in groups:
            inputs = group.gather(query[:, :, chunk], key, value, start, end, masks)
            output[:, chunk, group.heads] = attend(*inputs).transpose(1, 2)
        start = end
    return output


def _first(length: int, *states: torch.Tensor) -> list[torch.Tensor]:
    return [tensor[:, :, :length] for tensor in states]


def padded_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pattern: BlockPattern,
    token_mask: torch.Tensor,
    *,
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """`chunked_attention` on the real tokens of each row alone; padding queries give zeros.

    Args:
        query: (batch, heads, query length, head_dim).
        key: (batch, key/value heads, total length, head_dim).
        value: like `key`.
        pattern: the block geometry.
        token_mask: (batch, total length), true for real tokens.
        scaling: factor on the scores.
        dropout: probability of dropping an attention weight.

    Returns:
        (batch, query length, heads, head_dim).
    """
    past = key.shape[2] - query.shape[2]
    output = query.new_zeros(query.shape[0], query.shape[2], query.shape[1], query.shape[3])
    for row in range(query.shape[0]):
        real = token_mask[row].nonzero().flatten()
        queries = real[real >= past] - past
        if len(queries):
            output[row, queries] = chunked_attention(
                query[row : row + 1, :, queries],
                key[row : row + 1, :, real],
                value[row : row + 1, :, real],
                pattern,
                scaling=scaling,
                dropout=dropout,
            )[0]
    return output
