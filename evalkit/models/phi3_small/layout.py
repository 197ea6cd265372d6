"""Where the tokens of one forward pass stand: what is cached, what is padding, which positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

from evalkit.errors import UsageError
from evalkit.models.phi3_small.configuration import Phi3SmallConfig
from evalkit.models.phi3_small.sparse import BlockPattern, additive, visible
from evalkit.models.step_cache import StepCache

MASK_BUDGET = 2**23
"""Most numbers in the mask of a sparse layer (32 MB in float32) before it is computed in chunks."""


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of one forward pass.

    Attributes:
        past: tokens already in the cache; a tensor () inside torch.compile and in the steps of
            a StepCache, where nothing may depend on its value but other tensors.
        length: new tokens.
        key_length: keys a layer gets back from the cache, unused static slots included.
        attention_mask: the caller's mask, or None where it changes nothing.
        token_mask: (batch, past + length) true for real tokens, or None without padding.
        positions: (batch or 1, length) positions counted from the first real token.
        long: whether the long factors of longrope apply, for all rows or as (batch,) booleans.
        crosses: whether cached tokens were computed under factors that no longer apply.
    """

    past: int | torch.Tensor
    length: int
    key_length: int
    attention_mask: Any
    token_mask: torch.Tensor | None
    positions: torch.Tensor
    long: bool | torch.Tensor
    crosses: bool


def cached_tokens(cache: Cache | None, config: Phi3SmallConfig) -> int | torch.Tensor:
    """Tokens already seen; stays a tensor where reading it would end what is recorded.

    Under longrope a cache may have to be computed anew at this length: whoever steps a StepCache
    sees to that, for all others the length is read.
    """
    past = 0 if cache is None else cache.get_seq_length()
    compiled = torch.compiler.is_compiling() and config.rope_scaling is None
    return past if compiled or isinstance(cache, StepCache) else int(past)


def describe(
    config: Phi3SmallConfig,
    inputs: torch.Tensor,
    attention_mask: Any,
    position_ids: torch.Tensor | None,
    cache: Cache | None,
) -> TokenLayout:
    """Work out the layout of a forward pass.

    Args:
        config: the model's configuration.
        inputs: (batch, length, …) ids or embeddings.
        attention_mask: (batch, cached + length) of 0 and 1, a prepared 4D mask, or None.
        position_ids: (batch, length) positions, or None to count them.
        cache: keys and values of earlier tokens.

    Raises:
        UsageError: the mask does not cover the tokens, or they exceed the context.
    """
    _check_prepared(config, attention_mask)
    length, past = inputs.shape[1], cached_tokens(cache, config)
    key_length = length if cache is None else cache.get_mask_sizes(length, 0)[0]
    two_dimensional = isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2
    real = None
    if two_dimensional:
        real = _cut(attention_mask, past, length, key_length).to(inputs.device, torch.bool)
    long, crosses = _regime(config, real, past, length)
    token_mask = None if real is None or _is_trivial(real) else real
    _check_context(config, token_mask, past, length, key_length)
    return TokenLayout(
        past=past,
        length=length,
        key_length=key_length,
        attention_mask=attention_mask if token_mask is not None or not two_dimensional else None,
        token_mask=token_mask,
        positions=_positions(inputs, token_mask, past) if position_ids is None else position_ids,
        long=long,
        crosses=crosses,
    )


def _check_prepared(config: Phi3SmallConfig, attention_mask: Any) -> None:
    """A prepared mask does not tell padding from other gaps, so blocks could not be counted."""
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 4:
        return
    span = BlockPattern.from_config(config).local_span
    if attention_mask.shape[-1] > span:
        raise UsageError(
            f"a 4-dimensional attention_mask of {attention_mask.shape[-1]} tokens: sparse layers "
            f"need the padding mask (batch, tokens) beyond {span} tokens"
        )


def _cut(
    mask: torch.Tensor, past: int | torch.Tensor, length: int, key_length: int
) -> torch.Tensor:
    if isinstance(past, torch.Tensor):
        missing = key_length - mask.shape[1]
        return torch.nn.functional.pad(mask, (0, missing)) if missing > 0 else mask
    if mask.shape[1] < past + length:
        raise UsageError(
            f"attention_mask covers {mask.shape[1]} tokens: {past + length} are needed "
            f"({past} cached and {length} new); pass the mask of the whole sequence"
        )
    return mask[:, : past + length]


def _is_trivial(real: torch.Tensor) -> bool:
    """Whether padding, if any, comes last in every row, where causal attention never looks."""
    if torch.compiler.is_compiling():
        return False
    return bool(real.all()) or bool((real[:, 1:] <= real[:, :-1]).all())


def _regime(
    config: Phi3SmallConfig, real: torch.Tensor | None, past: int | torch.Tensor, length: int
) -> tuple[bool | torch.Tensor, bool]:
    """Whether the long factors apply, and whether they do so for the first time."""
    if config.rope_scaling is None:
        return False, False
    limit = config.short_context
    if isinstance(past, torch.Tensor):
        return (past + length > limit)[None], False
    if real is None or past + length <= limit:
        long = past + length > limit
        return long, long and 0 < past <= limit
    rows = real.sum(-1) > limit
    before = real[:, :past].sum(-1) > limit
    return rows, past > 0 and bool((rows & ~before).any())


def _check_context(
    config: Phi3SmallConfig,
    token_mask: torch.Tensor | None,
    past: int | torch.Tensor,
    length: int,
    key_length: int,
) -> None:
    """Beyond the trained positions the logits would be silently wrong."""
    total = key_length if isinstance(past, torch.Tensor) else past + length
    if total <= config.max_position_embeddings:
        return
    if token_mask is not None and not torch.compiler.is_compiling():
        total = int(token_mask.sum(-1).max())
    if total > config.max_position_embeddings:
        raise UsageError(
            f"{total} tokens: the model's context is {config.max_position_embeddings} "
            "(max_position_embeddings); shorten the text or the generation"
        )


def _positions(
    inputs: torch.Tensor, token_mask: torch.Tensor | None, past: int | torch.Tensor
) -> torch.Tensor:
    new = torch.arange(inputs.shape[1], device=inputs.device) + past
    if token_mask is None:
        return new[None]
    return _counted(token_mask)[:, new]


def _counted(token_mask: torch.Tensor) -> torch.Tensor:
    """Position of each token among the real tokens of its row; padding repeats its neighbour."""
    return (token_mask.cumsum(-1) - 1).clamp(min=0)


class SparseMasks:
    """Masks for the sparse layers of short passes, kept while consecutive passes share them."""

    def __init__(self, pattern: BlockPattern) -> None:
        self.pattern = pattern
        self._kept: tuple[tuple[Any, ...], torch.Tensor] | None = None

    def build(
        self, layout: TokenLayout, states: torch.Tensor, *, always: bool
    ) -> torch.Tensor | None:
        """Return an additive mask (batch or 1, heads, length, key_length).

        None where the sparse layers are plain causal, and where the mask would be large, so that
        they compute chunk by chunk; `always` builds it then too.
        """
        if isinstance(layout.past, torch.Tensor):
            if layout.key_length <= self.pattern.local_span:
                return None
            return self._padded(layout, states)
        if layout.past + layout.length <= self.pattern.local_span:
            return None
        rows = 1 if layout.token_mask is None else layout.token_mask.shape[0]
        numbers = rows * self.pattern.heads * layout.length * layout.key_length
        if layout.length > 1 and numbers > MASK_BUDGET and not always:
            return None
        if layout.token_mask is not None:
            return self._padded(layout, states)
        return self._unpadded(layout.past, layout, states)

    def _unpadded(self, past: int, layout: TokenLayout, states: torch.Tensor) -> torch.Tensor:
        """One new token sees the same keys as its whole block, so its mask serves them all."""
        size = self.pattern.block_size
        width = layout.key_length
        single = layout.length == 1 and width == past + 1
        start, end = past, past + layout.length
        if single:
            start, end = past // size * size + size - 1, past // size * size + size
        key = (start, end, 0 if single else width, states.device, states.dtype)
        if self._kept is None or self._kept[0] != key:
            keys = torch.arange(end if single else width, device=states.device)[None]
            seen = visible(self.pattern, keys[:, start:end], keys)
            self._kept = key, additive(seen, states.dtype)
        return self._kept[1][..., :width]

    def _padded(self, layout: TokenLayout, states: torch.Tensor) -> torch.Tensor:
        new = torch.arange(layout.length, device=states.device) + layout.past
        if layout.token_mask is None:
            keys = torch.arange(layout.key_length, device=states.device)[None]
            return additive(visible(self.pattern, new[None], keys), states.dtype)
        missing = layout.key_length - layout.token_mask.shape[1]
        real = torch.nn.functional.pad(layout.token_mask, (0, missing))
        counted = _counted(real)
        seen = visible(self.pattern, counted[:, new], counted)
        # Padding shares a position with a real token, and so do slots beyond the newest token.
        columns = torch.arange(layout.key_length, device=states.device)
        allowed = real[:, None] & (columns <= new[:, None])
        # A query that is padding sees itself: a row of nothing but masked keys can give NaN.
        itself = columns == new[:, None]
        return additive(seen & allowed[:, None] | itself, states.dtype)
