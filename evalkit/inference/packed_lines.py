"""Small trees laid side by side in one row: a question with its choices takes one pass, unpadded.

Each token sees the tokens of its own way from the root, by a mask of its own, and has the position
that it has in its own sequence. Trees of one row that extend an earlier batch all extend the same
row of it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalkit.inference.prefix_tree import Node

# Tokens of a row: enough that trees fill it to its end, few enough that attention between its
# tokens, of which most is masked, takes little beside the matrix products.
LINE_TOKENS = 256
# Larger trees fill rows badly, and are large enough to run level by level.
MOST_TREE_TOKENS = 128


@dataclass(frozen=True)
class Line:
    """Trees laid behind one another, all behind row `parent` of an earlier batch.

    Token `firsts[i]` of the line is the first of `nodes[i]`, whose parent in its tree is node
    `above[i]` of the line, -1 for a root.
    """

    parent: int
    nodes: list[Node]
    firsts: list[int]
    above: list[int]

    @property
    def below(self) -> list[Node]:
        """Nodes that extend this row: whole trees leave none."""
        return []

    @property
    def length(self) -> int:
        """Tokens of all nodes."""
        return self.firsts[-1] + len(self.nodes[-1].tokens)

    def halves(self) -> list[Line]:
        """Two lines with half of its trees each; none where it holds one tree."""
        trees = [
            (node, self.parent)
            for node, above in zip(self.nodes, self.above, strict=True)
            if above < 0
        ]
        middle = len(trees) // 2
        return [_line(trees[:middle]), _line(trees[middle:])] if middle else []

    def visible(self) -> NDArray[np.bool_]:
        """Which tokens each token sees, itself among them: (length, length)."""
        seen = np.zeros((self.length, self.length), dtype=bool)
        for node, first, above in zip(self.nodes, self.firsts, self.above, strict=True):
            here = slice(first, first + len(node.tokens))
            if above >= 0:
                last = self.firsts[above] + len(self.nodes[above].tokens) - 1
                seen[here] = seen[last]
            seen[here, here] = np.tri(len(node.tokens), dtype=bool)
        return seen


def tree_tokens(root: Node) -> int:
    """Tokens of `root` and all nodes below it."""
    return len(root.tokens) + sum(map(tree_tokens, root.children))


def lay_out(trees: Sequence[tuple[Node, int]], room: int) -> list[Line]:
    """Lines of at most `room` tokens over `trees`, each a root and the row it extends.

    They are as few as can be and of like length, for a batch is as long as its longest line.
    """
    groups: dict[int, list[tuple[Node, int]]] = {}
    for tree in trees:
        groups.setdefault(tree[1], []).append(tree)
    return [line for group in groups.values() for line in _balanced(group, room)]


def _balanced(trees: Sequence[tuple[Node, int]], room: int) -> list[Line]:
    """The longest tree first, each into the shortest line."""
    sized = sorted(((tree_tokens(tree[0]), tree) for tree in trees), key=lambda one: -one[0])
    count = math.ceil(sum(size for size, _ in sized) / room)
    while True:
        lines: list[tuple[int, int, list[tuple[Node, int]]]] = [(0, i, []) for i in range(count)]
        for size, tree in sized:
            length, index, held = lines[0]
            heapq.heapreplace(lines, (length + size, index, [*held, tree]))
        if max(length for length, _, _ in lines) <= room:
            return [_line(held) for _, _, held in lines]
        count += 1


def smallest_line(trees: Sequence[tuple[Node, int]]) -> Line:
    """A line of the smallest trees behind one row, two where there are as many."""
    ordered = sorted(trees, key=lambda tree: tree_tokens(tree[0]))
    return _line([tree for tree in ordered if tree[1] == ordered[0][1]][:2])


def _line(trees: Sequence[tuple[Node, int]]) -> Line:
    line = Line(trees[0][1], [], [], [])
    for root, _ in trees:
        for node, above in _walk(root, -1, len(line.nodes)):
            line.firsts.append(line.length if line.nodes else 0)
            line.nodes.append(node)
            line.above.append(above)
    return line


def _walk(node: Node, above: int, place: int) -> Iterator[tuple[Node, int]]:
    """`node`, which is to become number `place` of its line, and what is below it, root first."""
    yield node, above
    here, place = place, place + 1
    for child in node.children:
        for found in _walk(child, here, place):
            yield found
            place += 1


def mask_of(lines: Sequence[Line], past: Sequence[int], dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: 0 or the least number, (rows, 1, tokens, slots).

    The `past` tokens before each line end at the same slot, and all of its tokens see them. What
    only fills a row up sees itself.
    """
    before, length = max(past), max(line.length for line in lines)
    seen = np.zeros((len(lines), length, before + length), dtype=bool)
    seen[:, np.arange(length), before + np.arange(length)] = True
    for row, line in enumerate(lines):
        seen[row, : line.length, before - past[row] : before] = True
        seen[row, : line.length, before : before + line.length] = line.visible()
    mask = torch.zeros(seen.shape, dtype=dtype)
    return mask.masked_fill_(torch.from_numpy(~seen), torch.finfo(dtype).min)[:, None]


def positions_of(lines: Sequence[Line]) -> NDArray[np.int64]:
    """Each token's position in its own sequence, (rows, tokens); 0 where a row is filled up."""
    positions = np.zeros((len(lines), max(line.length for line in lines)), dtype=np.int64)
    for row, line in zip(positions, lines, strict=True):
        for node, first in zip(line.nodes, line.firsts, strict=True):
            row[first : first + len(node.tokens)] = np.arange(node.start, node.end)
    return positions


def ids_of(lines: Sequence[Line]) -> NDArray[np.int64]:
    """Token ids (rows, tokens); 0 where a row is filled up."""
    ids = np.zeros((len(lines), max(line.length for line in lines)), dtype=np.int64)
    for row, line in zip(ids, lines, strict=True):
        row[: line.length] = np.concatenate([node.tokens for node in line.nodes])
    return ids
