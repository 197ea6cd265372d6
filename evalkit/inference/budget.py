"""How many tokens run and are held at once: as many as their bytes leave room for on the device.

Beside the weights lie, in this order of size, the keys and values that are kept (of every token in
every layer), the activations of one pass (of every token in one layer), and the logits of some
rows. A few tokens are run to see what one token takes; the rest is arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from evalkit.inference.prefix_cache import recording
from evalkit.models.caches import keeps_every_token
from evalkit.models.context import context_limit
from evalkit.scoring.device_memory import DeviceMemory, memory_of
from evalkit.scoring.head import Forward

# Keys and values are held of this many batches, where memory allows.
_CACHED_BATCHES = 8
# Of the free memory; the rest is lost between blocks, or belongs to rows that are about to leave.
_USABLE = 0.9
# A pass may take this part of it, unless fewer tokens would leave the device idle. Prompts of what
# is generated are read in passes that are as fast with these many: the rest is for the answers.
_FOR_ACTIVATIONS, _FEWEST_TOKENS, _PROMPT_TOKENS = 1 / 2, 2048, 4096
_TRIED_TOKENS = 512


@dataclass(frozen=True)
class Budget:
    """Bounds of one batch: tokens run, and slots for tokens whose keys and values are held.

    Batches are a function of the sequences and of these numbers only, unless one does not fit in
    memory and `halve` allows to halve it. With `all_levels` the slots are those of all batches that
    are held at one time; without it those of each.
    """

    batch_tokens: int = 4096
    cache_tokens: int = 32768
    halve: bool = True
    all_levels: bool = False


@dataclass(frozen=True)
class TokenBytes:
    """Bytes that tokens take on the device.

    `slot` is a token whose keys and values are held, with what attention makes of it in one layer;
    a pass takes `fixed` and `activation` for each of its tokens.
    """

    slot: float
    fixed: float
    activation: float

    def of_pass(self, tokens: int) -> float:
        """Activations of a pass over `tokens` tokens."""
        return self.fixed + tokens * self.activation


def plan_budget(
    forward: Forward,
    batch_tokens: int,
    *,
    cache_tokens: int | None = None,
    halve: bool = True,
    generates: bool = False,
) -> Budget:
    """The largest budget of passes of at most `batch_tokens` that the device has room for.

    Args:
        forward: the model, with its weights on the device.
        batch_tokens: tokens of one pass, padding included.
        cache_tokens: most slots of keys and values; eight batches by default.
        halve: whether what runs together may depend on memory: without it, a scoring pass has
            `batch_tokens` tokens or does not fit.
        generates: whether text is generated, by many short passes, and not scored.

    Slots are counted in quarters of a batch, so that a little more or less free memory changes no
    batch. On a CPU nothing is measured: the system decides.
    """
    wanted = cache_tokens or _CACHED_BATCHES * batch_tokens
    memory = memory_of(forward.model.device)
    if memory is None or not keeps_every_token(forward.model):
        return Budget(batch_tokens, wanted, halve)
    taken = measure_tokens(forward, memory)
    usable = _USABLE * memory.free()
    tokens = min(batch_tokens, _PROMPT_TOKENS) if generates else batch_tokens
    while halve and tokens > _FEWEST_TOKENS and taken.of_pass(tokens) > _FOR_ACTIVATIONS * usable:
        tokens //= 2
    beside = max(taken.of_pass(tokens), 0 if generates else forward.head_bytes)
    slots = max(1, int((usable - beside) / taken.slot))
    unit = max(1, batch_tokens // 4)
    return Budget(tokens, min(wanted, slots // unit * unit or slots), halve, all_levels=True)


def measure_tokens(forward: Forward, memory: DeviceMemory) -> TokenBytes:
    """Run a few tokens and see what they take."""
    many = min(_TRIED_TOKENS, context_limit(forward.model.config) or _TRIED_TOKENS)
    few = max(1, many // 2)
    # The first pass also makes what stays: workspaces, repacked weights.
    slot = _slot_bytes(forward, few)
    small, large = (memory.peak(partial(_run, forward, tokens)) for tokens in (few, many))
    activation = max(0.0, (large - small) / max(1, many - few))
    return TokenBytes(slot, max(0.0, large - activation * many), activation)


def _run(forward: Forward, tokens: int) -> None:
    with torch.inference_mode():
        forward.rows(_ids(forward, tokens))


def _slot_bytes(forward: Forward, tokens: int) -> float:
    """Bytes of keys and values a token, and of what attention makes of them in a layer.

    It joins those of earlier and new tokens and, under a mask, repeats them for every query head.
    """
    cache = recording()
    with torch.inference_mode():
        forward.body(input_ids=_ids(forward, tokens), past_key_values=cache, use_cache=True)
    layers = [layer.keys.nbytes + layer.values.nbytes for layer in cache.layers]
    heads = getattr(forward.model.config.get_text_config(), "num_attention_heads", 1)
    repeats = max(1, heads // cache.layers[0].keys.shape[1])
    return (sum(layers) + max(layers) * (1 + (repeats if repeats > 1 else 0))) / tokens


def _ids(forward: Forward, tokens: int) -> torch.Tensor:
    device = forward.model.device
    return torch.arange(tokens, device=device)[None] % forward.vocabulary
