"""How fast a card could be at most: bytes over bandwidth, operations over arithmetic rate.

Prefill multiplies every weight with every token of the prompt and is bound by arithmetic; decode
reads every weight once a step, whatever the number of sequences, and at small batches is bound by
memory bandwidth (Williams, Waterman and Patterson 2009). Tokens/s are of all sequences together.
"""

from __future__ import annotations

from evalkit.analysis.architecture import ModelShape
from evalkit.analysis.cards import Card
from evalkit.analysis.footprint import Scheme, cached_bytes, read_bytes


def decode_roofline(shape: ModelShape, scheme: Scheme, card: Card, batch: int) -> float:
    """Decoded tokens/s at most: weights read once a step over bandwidth, KV cache left out."""
    return _decode_rate(shape, scheme, card, batch, context=0)


def decode_expected(
    shape: ModelShape, scheme: Scheme, card: Card, batch: int, context: int
) -> float:
    """Decoded tokens/s to expect behind `context` tokens.

    The scheme's fraction of the roofline, with the KV cache of every sequence read in each step.
    """
    return scheme.fraction * _decode_rate(shape, scheme, card, batch, context)


def prefill_roofline(
    shape: ModelShape, scheme: Scheme, card: Card, batch: int, context: int
) -> float:
    """Prompt tokens/s at most for `batch` prompts of `context` tokens in one pass.

    Logits are computed for the last token of each prompt only.
    """
    tokens = batch * context
    products = tokens * _linear_flops(shape) / _rate(scheme, card)
    rest = tokens * _rest_flops(shape) + batch * 2 * shape.head
    rest += batch * _attention_flops(shape, context)
    reading = read_bytes(shape, scheme, tokens) / card.bandwidth
    return tokens / max(products + rest / card.flops, reading)


def decode_flops(shape: ModelShape, batch: int, context: int) -> float:
    """Operations of one decode step of `batch` sequences behind `context` tokens each."""
    token = _linear_flops(shape) + _rest_flops(shape) + 2 * shape.head
    return batch * (token + _step_flops(shape, context))


def prefill_flops(shape: ModelShape, batch: int, context: int) -> float:
    """Operations of reading `batch` prompts of `context` tokens, logits for the last one only."""
    tokens = batch * context * (_linear_flops(shape) + _rest_flops(shape))
    return tokens + batch * (2 * shape.head + _attention_flops(shape, context))


def kv_read_bytes(shape: ModelShape, scheme: Scheme, context: int) -> float:
    """Bytes of keys, values and state that a sequence behind `context` tokens reads in a step."""
    read = sum(a.layers * a.cached * a.attended(context) for a in shape.attention)
    return read * cached_bytes(shape, scheme) + shape.state * scheme.rest_bytes


def _decode_rate(shape: ModelShape, scheme: Scheme, card: Card, batch: int, context: int) -> float:
    cache = batch * kv_read_bytes(shape, scheme, context)
    reading = (read_bytes(shape, scheme, batch) + cache) / card.bandwidth
    products = batch * _linear_flops(shape) / _rate(scheme, card)
    rest = _rest_flops(shape) + 2 * shape.head + _step_flops(shape, context)
    return batch / max(reading, products + batch * rest / card.flops)


def _rate(scheme: Scheme, card: Card) -> float:
    return card.int8_operations if scheme.int8 else card.flops


def _linear_flops(shape: ModelShape) -> float:
    """Operations of a token in the linear layers of the decoder."""
    return 2.0 * shape.linear_elements


def _rest_flops(shape: ModelShape) -> float:
    """Operations of a token in the experts it is sent to; norms and the like are left out."""
    return 2.0 * shape.experts * shape.expert_share


def _step_flops(shape: ModelShape, context: int) -> float:
    """Operations of one token attending to `context` earlier ones: scores, then values."""
    attended = sum(a.layers * a.attended(context) for a in shape.attention)
    return 4.0 * shape.heads * shape.head_dim * attended


def _attention_flops(shape: ModelShape, context: int) -> float:
    """Operations of a prompt of `context` tokens attending to itself, causally.

    `attended` grows linearly on either side of the window, so that the sum over tokens is the
    area of two trapezia.
    """
    area = 0.0
    for kind in shape.attention:
        bend = min(context, kind.window) if kind.window else context
        before = bend * kind.attended(bend) / 2
        beyond = (context - bend) * (kind.attended(bend) + kind.attended(context)) / 2
        area += kind.layers * (before + beyond)
    return 4.0 * shape.heads * shape.head_dim * area
