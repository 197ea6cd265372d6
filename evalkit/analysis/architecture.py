"""The sizes of an architecture: what a planner needs to know of a model. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Linear:
    """A linear layer of the decoder: name, outputs, inputs."""

    name: str
    outputs: int
    inputs: int


@dataclass(frozen=True)
class Attention:
    """Layers that attend alike, and what they keep.

    `cached` is elements of keys and values a token and layer. With a `window` a token attends to
    that many last tokens and, with a `stride` too, to every stride-th of those before; without
    stride, tokens beyond the window are dropped from the cache.
    """

    layers: int
    cached: int
    window: int = 0
    stride: int = 0

    def kept(self, length: int) -> int:
        """Tokens of `length` that stay in the cache."""
        return min(length, self.window) if self.window and not self.stride else length

    def attended(self, length: int) -> float:
        """Tokens that the last of `length` tokens attends to."""
        if not self.window or length <= self.window:
            return length
        beyond = (length - self.window) / self.stride if self.stride else 0.0
        return self.window + beyond


@dataclass(frozen=True)
class Growth:
    """Bytes as a polynomial: Σ fixed[k] · length^k + batch · Σ each[k] · length^k."""

    fixed: tuple[float, ...]
    each: tuple[float, ...]

    def __call__(self, batch: int, length: int) -> float:
        """Bytes at `batch` sequences of `length` tokens."""
        powers = [float(length**k) for k in range(len(self.fixed))]
        shared = math.fsum(c * p for c, p in zip(self.fixed, powers, strict=True))
        return shared + batch * math.fsum(c * p for c, p in zip(self.each, powers, strict=True))


@dataclass(frozen=True)
class Moment:
    """One operation of a forward pass and the bytes alive just after it, KV cache excluded.

    At a linear layer of the decoder, `outputs` and `inputs` are its widths: the kernel of a
    quantized layer holds its own buffers then.
    """

    growth: Growth
    outputs: int = 0
    inputs: int = 0


@dataclass(frozen=True)
class SparseMask:
    """The mask of block-sparse layers: heads · length² elements between two lengths.

    Where it would hold more than `most` elements, or the prompt is within `span` tokens, there is
    none. While it is made, `booleans` bytes an element are held beside it.
    """

    heads: int
    span: int
    most: int
    booleans: int

    def elements(self, length: int) -> int:
        """Elements of the mask for a prompt of `length` tokens."""
        numbers = self.heads * length**2
        return numbers if length > self.span and numbers <= self.most else 0


@dataclass(frozen=True)
class ModelShape:
    """Sizes of an architecture, in elements and tokens.

    `linears` are the layers of the decoder that a backend may quantize. `embedding` is elements
    of the token embedding, `head` of the output head, which are the same elements when `tied`;
    `other` is everything else (norms, biases, routers), `experts` fused experts, of which a token
    uses the share `expert_share`. `state` is elements that a sequence keeps whatever its length.
    `prefill` and `decode` are moments of a forward pass, by the bytes of an unquantized element;
    `estimated` says why they are no count, "" where they are.
    """

    name: str
    layers: int
    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    max_context: int
    linears: tuple[Linear, ...]
    embedding: int
    head: int
    tied: bool
    other: int
    attention: tuple[Attention, ...]
    experts: int = 0
    expert_share: float = 1.0
    prefill: Mapping[int, tuple[Moment, ...]] = field(default_factory=dict)
    decode: Mapping[int, tuple[Moment, ...]] = field(default_factory=dict)
    sparse_mask: SparseMask | None = None
    state: int = 0
    estimated: str = ""

    @property
    def linear_elements(self) -> int:
        """Weights of the linear layers of the decoder."""
        return sum(linear.outputs * linear.inputs for linear in self.linears)

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        head = 0 if self.tied else self.head
        return self.linear_elements + self.embedding + head + self.other + self.experts
