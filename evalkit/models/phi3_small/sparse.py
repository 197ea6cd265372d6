"""Block-sparse attention of Phi-3 Small: which keys a query sees, and how that is computed.

Tokens are cut into blocks of `block_size`. Query block i of head h sees key block j <= i when it
is local (i - j < num_local_blocks) or when it lies on the head's vertical stripes
((j + h * step + 1) % vert_stride == 0). Heads whose offset h * step is equal modulo the stride
share one pattern. Inside the last block the order of tokens decides, as in any causal attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from evalkit.models.phi3_small.configuration import Phi3SmallConfig


@dataclass(frozen=True)
class BlockPattern:
    """The block geometry of a model; `offsets[h]` is head h's shift of the vertical stripes."""

    block_size: int
    num_local_blocks: int
    vert_stride: int
    offsets: tuple[int, ...]

    @classmethod
    def from_config(cls, config: Phi3SmallConfig) -> BlockPattern:
        """The pattern of a configuration, one offset for each attention head."""
        stride, heads = config.blocksparse_vert_stride, config.num_attention_heads
        step = 0 if config.blocksparse_homo_head_pattern else max(1, int(stride / heads))
        return cls(
            block_size=config.blocksparse_block_size,
            num_local_blocks=config.blocksparse_num_local_blocks,
            vert_stride=stride,
            offsets=tuple(head * step % stride for head in range(heads)),
        )

    @property
    def local_span(self) -> int:
        """Total length, in tokens, up to which the pattern is plain causal attention."""
        return self.num_local_blocks * self.block_size


def visible(pattern: BlockPattern, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Which keys each head sees, from the positions of queries and keys.

    Args:
        pattern: the block geometry.
        queries: (batch, query length) positions counted from the first real token.
        keys: (batch, key length) positions likewise.

    Returns:
        (batch, heads, query length, key length) booleans.
    """
    offsets = torch.tensor(pattern.offsets, device=keys.device)[:, None]
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
