"""Token ids kept in the cache, so that a longrope model can compute its cache anew.

Keys and values cached under the short factors are wrong once the long ones apply, in every layer:
they came out of attention under the short factors. The ids ride along as one more layer of the
cache, so that whatever reorders, repeats, selects or crops the cache does the same to them.
"""

from __future__ import annotations

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer, StaticLayer

from evalkit.errors import UsageError
from evalkit.models.step_cache import StepCache


def remember(cache: Cache | None, input_ids: torch.Tensor, num_hidden_layers: int) -> None:
    """Append (batch, length) ids to the cache, behind its `num_hidden_layers` layers.

    Nothing is kept without a cache, or for a StepCache, whose caller keeps the text.
    """
    if cache is None or isinstance(cache, StepCache):
        return
    while len(cache.layers) <= num_hidden_layers:
        cache.layers.append(_new_layer(cache))
    ids = input_ids[:, None, :, None]
    cache.layers[num_hidden_layers].update(ids, ids)


def recall(cache: Cache, num_hidden_layers: int, past: int) -> torch.Tensor:
    """Return the (batch, past) ids behind a cache and empty it.

    Raises:
        UsageError: the cache was filled from embeddings or by another program.
    """
    layer = cache.layers[num_hidden_layers] if len(cache.layers) > num_hidden_layers else None
    if layer is None or int(layer.get_seq_length()) != past:
        raise UsageError(
            f"a cache of {past} tokens without their ids: crossing the original context needs "
            "them; fill the cache from input_ids or start with an empty one"
        )
    ids: torch.Tensor = layer.keys[:, 0, :past, 0].clone()
    cache.reset()
    return ids


def _new_layer(cache: Cache) -> DynamicLayer:
    static = [layer for layer in cache.layers if isinstance(layer, StaticLayer)]
    return StaticLayer(max_cache_len=static[0].max_cache_len) if static else DynamicLayer()
