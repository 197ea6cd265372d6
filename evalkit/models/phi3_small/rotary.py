"""Rotary position embedding of Phi-3 Small, with both regimes of longrope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from evalkit.models.phi3_small.configuration import Phi3SmallConfig


def inverse_frequencies(config: Phi3SmallConfig, *, long: bool) -> torch.Tensor:
    """Angle per position of each pair of a head's dimensions: (head_dim / 2,) float32.

    Without `rope_scaling`, `rope_position_scale` is folded in; with it (longrope) each frequency
    is divided by its short or long factor instead, and `rope_position_scale` has no effect.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    frequencies = config.rope_embedding_base**-exponents
    if config.rope_scaling is None:
        frequencies = frequencies * config.rope_position_scale
    else:
        factors = config.rope_scaling["long_factor" if long else "short_factor"]
        frequencies = frequencies / torch.tensor(factors, dtype=torch.float64)
    return frequencies.to(torch.float32)


class Phi3SmallRotaryEmbedding(nn.Module):
    """Cosines and sines for positions; each row of a batch is in its own longrope regime."""

    inv_freq: torch.Tensor
    inv_freq_long: torch.Tensor

    def __init__(self, config: Phi3SmallConfig) -> None:
        super().__init__()
        self.config = config
        empty = torch.empty(config.head_dim // 2, dtype=torch.float32)
        self.register_buffer("inv_freq", empty, persistent=False)
        self.register_buffer("inv_freq_long", empty.clone(), persistent=False)
        self.reset_buffers()

    @torch.no_grad()
    def reset_buffers(self) -> None:
        """Fill the frequencies again; they are not in checkpoints."""
        for name, long in (("inv_freq", False), ("inv_freq_long", True)):
            device = getattr(self, name).device
            frequencies = inverse_frequencies(self.config, long=long)
            setattr(self, name, frequencies.to(device))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        # model.to(bfloat16) would round the angles of far positions by whole turns.
        super()._apply(fn, recurse)
        if self.inv_freq.dtype != torch.float32:
            self.reset_buffers()
        return self

    @torch.no_grad()
    def forward(
        self, positions: torch.Tensor, long: torch.Tensor | bool, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin, each (batch, length, head_dim) in `dtype`.

        Args:
            positions: (batch, length) positions counted from the first real token.
            long: whether the long factors apply, for all rows or as (batch,) booleans.
            dtype: type of the result.
        """
        if isinstance(long, torch.Tensor):
            rows = long[:, None, None]
            frequencies = torch.where(rows, self.inv_freq_long, self.inv_freq)
            magnitude: torch.Tensor | float = torch.where(
                rows, self.config.rope_magnitude(long=True), self.config.rope_magnitude(long=False)
            )
        else:
            frequencies = self.inv_freq_long if long else self.inv_freq
            magnitude = self.config.rope_magnitude(long=long)
        angles = positions[..., None].to(torch.float32) * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos(), angles.sin()
        if self.config.rope_scaling is not None:
            cos, sin = cos * magnitude, sin * magnitude
        return cos.to(dtype), sin.to(dtype)
