"""Formats of a quantized KV cache: what a channel of a key or value takes. Standard library only.

`int8` and `int4` are llama.cpp's Q8_0 and Q4_0 (ggml-quants.c): groups of 32 channels of one token
and head, symmetric around zero, with a float16 scale. `fp8` is e4m3 without a scale, as vLLM holds
a cache (kv_cache_dtype=fp8) whose checkpoint brings no scales.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CacheFormat:
    """How a cache holds the channels of one head of one token.

    `bits` a channel; `group_size` channels share a float16 scale, 0 for no scale.
    """

    name: str
    bits: int
    group_size: int = 0

    def channel_bytes(self, channels: int) -> float:
        """Bytes a channel of heads of `channels`, with its part of the scales."""
        scales = math.ceil(channels / self.group_size) if self.group_size and channels else 0
        return self.bits / 8 + (2 * scales / channels if scales else 0.0)


FORMATS = {
    one.name: one
    for one in (CacheFormat("int8", 8, 32), CacheFormat("fp8", 8), CacheFormat("int4", 4, 32))
}
