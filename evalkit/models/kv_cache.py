"""A quantized KV cache, simulated: keys and values are packed and unpacked as they enter the cache.

Each attention layer is handed a stand-in for its cache, whose `update` quantizes the new keys and
values (behind RoPE) and passes them on to the layer's own cache, of whatever kind. Where a pass has
no cache, the stand-in returns them and keeps nothing. So a token's keys and values are quantized
once, and one pass, chunks, shared prefixes and generation attend to the same ones.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from evalkit.analysis.cache_formats import CacheFormat
from evalkit.errors import VariantError
from evalkit.models.caches import keeps_every_token

# What the forward of an attention layer calls its cache.
_CACHE_ARGUMENTS = ("past_key_values", "layer_past", "past_key_value")
# llama.cpp rotates values in blocks of at most this, keys in blocks as large as can be.
_VALUE_BLOCK = 64


def quantize_kv_cache(model: PreTrainedModel, cache: CacheFormat, *, rotates: bool = False) -> None:
    """Let all layers of `model` attend to keys and values as a cache of this format returns them.

    With `rotates` the channels of a head go through a Hadamard transform before they are quantized,
    and back behind it. Raises VariantError for a model that keeps something else of a text.
    """
    for layer in _attention_layers(model):
        hook = _CacheHook(cache, rotates, *_cache_argument(layer))
        layer.register_forward_pre_hook(hook, with_kwargs=True)
        layer.register_forward_hook(_check_updated, with_kwargs=True)


def full_kv_cache(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """While the block runs, keys and values of `model` are not quantized."""
    return _switched(model, active=False)


def quantized_kv_cache(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """While the block runs, they are again, inside of `full_kv_cache`."""
    return _switched(model, active=True)


@contextlib.contextmanager
def _switched(model: nn.Module, *, active: bool) -> Iterator[None]:
    hooks = {
        hook
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, _CacheHook) and hook.active is not active
    }
    for hook in hooks:
        hook.active = active
    try:
        yield
    finally:
        for hook in hooks:
            hook.active = not active


def quantized(states: Tensor, cache: CacheFormat) -> Tensor:
    """`states` (…, channels) as they come out of a cache of this format, in their own dtype.

    Where the channels are no multiple of the group size, the last group is smaller.
    """
    if not cache.group_size:
        limit = torch.finfo(torch.float8_e4m3fn).max
        return states.clamp(-limit, limit).to(torch.float8_e4m3fn).to(states.dtype)
    channels, size = states.shape[-1], cache.group_size
    padded = pad(states.float(), (0, -channels % size))
    groups = padded.reshape(*states.shape[:-1], -1, size)
    unpacked = _q8_0(groups) if cache.bits == 8 else _q4_0(groups)
    return unpacked.flatten(-2)[..., :channels].to(states.dtype)


def hadamard(states: Tensor, most: int | None = None) -> Tensor:
    """The orthonormal Hadamard transform of blocks of channels, which is its own inverse.

    A block is the largest power of two that divides the channels of `states` (…, channels), and at
    most `most`. Sums only, so that it is the same whatever else is in the batch.
    """
    channels = states.shape[-1]
    block = min(channels & -channels, most or channels)
    found, width = states.float(), 1
    while width < block:
        left, right = found.reshape(*states.shape[:-1], -1, 2, width).unbind(-2)
        found = torch.stack((left + right, left - right), -2).flatten(-3)
        width *= 2
    return found / math.sqrt(block)


def _q8_0(groups: Tensor) -> Tensor:
    """`quantize_row_q8_0_ref` of ggml and back: 127 steps to the largest, rounded half away."""
    scale = groups.abs().amax(-1, keepdim=True) / 127
    steps = groups * _inverse(scale)
    return (steps + torch.copysign(torch.full_like(steps, 0.5), steps)).trunc() * _stored(scale)


def _q4_0(groups: Tensor) -> Tensor:
    """`quantize_row_q4_0_ref` of ggml and back: the value largest in magnitude is step -8."""
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scale = largest / -8
    steps = (groups * _inverse(scale) + 8.5).trunc().clamp(0, 15) - 8
    return steps * _stored(scale)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0.0, 1 / scale)


def _stored(scale: Tensor) -> Tensor:
    """The scale as a cache holds it, in float16."""
    return scale.half().float()


class _CacheHook:
    """Puts a stand-in for its cache among a layer's arguments, while `active`.

    There the cache is the one called `name`, at `place`.
    """

    def __init__(self, cache: CacheFormat, rotates: bool, name: str, place: int) -> None:
        self.cache, self.rotates, self.name, self.place = cache, rotates, name, place
        self.active = True

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The layer's arguments with the stand-in among them."""
        if not self.active:
            return None
        if self.place < len(args):
            before, behind = args[: self.place], args[self.place + 1 :]
            return (*before, self._stand_in(args[self.place]), *behind), kwargs
        return args, {**kwargs, self.name: self._stand_in(kwargs.get(self.name))}

    def _stand_in(self, cache: Any) -> _QuantizedUpdates:
        # That of a model which could read an encoder's states, too.
        text = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        return _QuantizedUpdates(text, self)

    def keys_and_values(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Both, each (rows, heads, tokens, channels), as they come out of the cache."""
        return self._unpacked(keys, None), self._unpacked(values, _VALUE_BLOCK)

    def _unpacked(self, states: Tensor, block: int | None) -> Tensor:
        if not self.rotates:
            return quantized(states, self.cache)
        turned = quantized(hadamard(states, block), self.cache)
        return hadamard(turned, block).to(states.dtype)


class _QuantizedUpdates:
    """Stands for a layer's cache, or for none: quantizes what is new, then hands it on."""

    def __init__(self, cache: Any, hook: _CacheHook) -> None:
        self.own, self.hook, self.updated = cache, hook, False

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The keys and values to attend to, as a cache returns them."""
        self.updated = True
        keys, values = self.hook.keys_and_values(key_states, value_states)
        if self.own is None:
            return keys, values
        found: tuple[Tensor, Tensor] = self.own.update(keys, values, *args, **kwargs)
        return found

    def __getattr__(self, name: str) -> Any:
        """What else a layer asks its cache; where there is none, an empty one answers."""
        return getattr(DynamicCache() if self.own is None else self.own, name)


def _check_updated(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> None:
    """Raise VariantError where a layer has attended to keys and values that were not quantized."""
    for one in (*args, *kwargs.values()):
        if isinstance(one, _QuantizedUpdates) and not one.updated:
            raise VariantError(
                f"{type(layer).__name__} attends without updating its cache, so kv_cache= would"
                " change nothing there: leave it out"
            )


def _attention_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that update the cache; raises VariantError where not every layer has one."""
    name = type(model).__name__
    if not keeps_every_token(model):
        raise VariantError(
            f"kv_cache= cannot be applied to {name}: its layers keep a state, or what only a cache"
            " of its own knows, and not the keys and values of every token; leave it out"
        )
    takers = {module for module in model.modules() if _cache_argument(module)[0]}
    inner = [one for one in takers if takers.isdisjoint(set(one.modules()) - {one})]
    # Layers that attend to another layer's keys and values bring none.
    own = [module for module in inner if not getattr(module, "is_kv_shared_layer", False)]
    if len(own) < len(DynamicCache(config=model.config).layers):
        raise VariantError(
            f"kv_cache= cannot be applied to {name}: {len(own)} of its layers are known to take a"
            " cache; leave it out"
        )
    return own


def _cache_argument(module: nn.Module) -> tuple[str, int]:
    """Name and place of the cache among the arguments of a module; "" for none."""
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    found = next((name for name in _CACHE_ARGUMENTS if name in names), "")
    return found, names.index(found) if found else -1
