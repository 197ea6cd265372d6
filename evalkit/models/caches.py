"""What a model keeps of the tokens it has read: keys and values, or a state."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def keeps_every_token(model: PreTrainedModel) -> bool:
    """Whether all layers keep keys and values a token: a state can be neither shared nor cut."""
    return _caches_in(model, DynamicLayer, DynamicSlidingWindowLayer)


def attends_to_all(model: PreTrainedModel) -> bool:
    """Whether all layers keep keys and values a token, and none looks at a window of them only."""
    return _caches_in(model, DynamicLayer)


def _caches_in(model: PreTrainedModel, *kinds: type) -> bool:
    """Whether every layer's cache is one of `kinds`."""
    if getattr(model, "_is_stateful", False):
        return False
    try:
        layers = DynamicCache(config=model.config).layers
    except KeyError:  # layers of kinds that only a cache of the model's own knows
        return False
    return all(type(layer) in kinds for layer in layers)


# What a pass leaves for the next one: keys and values, or a state.
_KEPT = ("past_key_values", "cache_params", "state")
# What a layer of transformers' caches holds of them.
_IN_LAYERS = ("keys", "values", "conv_states", "recurrent_states")


def kept_of(output: Any) -> dict[str, Any]:
    """What a pass with `output` leaves for the next one, by the argument that takes it."""
    found = {name: getattr(output, name, None) for name in _KEPT}
    return {name: kept for name, kept in found.items() if kept is not None}


def kept_tensors(kept: Any) -> Iterator[Tensor]:
    """The tensors that `kept_of` found: keys and values, states of recurrences and convolutions."""
    if isinstance(kept, Tensor):
        yield kept
    elif isinstance(kept, dict):
        for one in kept.values():
            yield from kept_tensors(one)
    elif isinstance(kept, list | tuple):
        for one in kept:
            yield from kept_tensors(one)
    elif hasattr(kept, "layers"):
        for layer in kept.layers:
            for name in _IN_LAYERS:
                yield from kept_tensors(getattr(layer, name, None))
    elif hasattr(kept, "rnn_state"):
        yield from kept_tensors(kept.rnn_state)


def last_logits_only(model: PreTrainedModel) -> dict[str, int]:
    """The argument that asks `model` for the logits of the last token only, if it takes it."""
    names = inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in names else {}
