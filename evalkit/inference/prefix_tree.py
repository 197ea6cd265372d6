"""A prefix tree over token sequences: tokens that sequences share are computed once.

Twenty few-shot questions with four choices each are eighty sequences. They share the examples,
and the four choices of a question share the question. The tree says which tokens to run once and
which sequences continue from there; `evalkit.inference.prefix` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
TokenIds = Sequence[int] | Tokens

# A shared part is worth a forward pass of its own when it saves this many tokens, and this part of
# the tokens that the sequences below it would cost apart.
MINIMUM_TOKENS = 16
MINIMUM_SAVING = 0.15
# Each level above a sequence's last one keeps one batch of keys and values in memory.
MAXIMUM_LEVELS = 4


@dataclass(slots=True)
class Node:
    """A run of tokens that is computed once for all sequences below it.

    `tokens` follow the `start` tokens of the nodes above. `sequences` are the numbers of all
    sequences that contain this run; those that end with its last token are also in `ends`.
    """

    tokens: Tokens
    start: int
    sequences: list[int]
    ends: list[int] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Tokens of a sequence up to and including this run."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Row:
    """A node that extends row `parent` of the batch before."""

    node: Node
    parent: int

    @property
    def nodes(self) -> list[Node]:
        """The node alone."""
        return [self.node]

    @property
    def below(self) -> list[Node]:
        """Nodes that extend this row."""
        return self.node.children


@dataclass(slots=True)
class _Span:
    """Distinct sequences `low` to `high` of the sorted order, to become `siblings`.

    They share at least `start` tokens, which the node above has computed.
    """

    low: int
    high: int
    start: int
    level: int
    siblings: list[Node]


def build_tree(sequences: Mapping[int, TokenIds], *, share: bool = True) -> list[Node]:
    """The roots of a prefix tree over `sequences`; equal sequences become one node.

    Args:
        sequences: non-empty token ids by the number that nodes call them by.
        share: whether sequences may share a part; without it every distinct sequence is a root.

    The tree is a function of the sequences only, so every variant is given the same batches.
    """
    groups: dict[bytes, list[int]] = {}
    for index, tokens in sequences.items():
        # Big-endian bytes compare like the token ids they hold.
        key = np.asarray(tokens, dtype=np.int32).astype(">i4").tobytes()
        groups.setdefault(key, []).append(index)
    if not groups:
        return []
    keys = sorted(groups)
    arrays = [np.frombuffer(key, dtype=">i4").astype(np.int32) for key in keys]
    return _Builder(arrays, [groups[key] for key in keys]).build(share)


class _Builder:
    def __init__(self, arrays: list[Tokens], members: list[list[int]]) -> None:
        self.arrays = arrays
        self.members = members
        self.lengths = np.asarray([len(array) for array in arrays], dtype=np.int64)
        self.common = _common_prefixes(arrays)

    def build(self, share: bool) -> list[Node]:
        roots: list[Node] = []
        spans = [_Span(0, len(self.arrays), 0, 1 if share else MAXIMUM_LEVELS, roots)]
        while spans:
            spans.extend(self._grow(spans.pop()))
        return roots

    def _grow(self, span: _Span) -> list[_Span]:
        """Put the nodes of `span` into its siblings; return the spans that are left to do."""
        shared = self._shared(span)
        if span.high - span.low == 1:
            span.siblings.append(self._node(span, shared))
            return []
        if not self._worthwhile(span, shared):
            return self._split(span, shared)
        node = self._node(span, shared)
        span.siblings.append(node)
        low = span.low + (1 if node.ends else 0)
        return [_Span(low, span.high, shared, span.level + 1, node.children)]

    def _split(self, span: _Span, shared: int) -> list[_Span]:
        inner = self.common[span.low + 1 : span.high]
        cuts = np.flatnonzero(inner == shared) + span.low + 1
        bounds = [span.low, *cuts.tolist(), span.high]
        # The last span is grown first: reversed, the nodes come out in sorted order.
        return [
            _Span(low, high, span.start, span.level, span.siblings)
            for low, high in reversed(list(pairwise(bounds)))
        ]

    def _shared(self, span: _Span) -> int:
        if span.high - span.low == 1:
            return int(self.lengths[span.low])
        return int(self.common[span.low + 1 : span.high].min())

    def _worthwhile(self, span: _Span, shared: int) -> bool:
        if span.level >= MAXIMUM_LEVELS:
            return False
        lengths = self.lengths[span.low : span.high] - span.start
        saved = (shared - span.start) * (len(lengths) - 1)
        return bool(saved >= max(MINIMUM_TOKENS, MINIMUM_SAVING * lengths.sum()))

    def _node(self, span: _Span, shared: int) -> Node:
        """The node of what `span` shares; only its first sequence can end there."""
        ended = self.lengths[span.low] == shared
        return Node(
            tokens=self.arrays[span.low][span.start : shared],
            start=span.start,
            sequences=[i for members in self.members[span.low : span.high] for i in members],
            ends=list(self.members[span.low]) if ended else [],
        )


def _common_prefixes(arrays: Sequence[Tokens]) -> NDArray[np.int64]:
    """Length of the prefix that each of the sorted `arrays` shares with the one before it."""
    common = np.zeros(len(arrays), dtype=np.int64)
    for index, (before, here) in enumerate(pairwise(arrays), start=1):
        length = min(len(before), len(here))
        differs = np.flatnonzero(before[:length] != here[:length])
        common[index] = differs[0] if len(differs) else length
    return common
