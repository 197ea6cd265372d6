"""Whether a model reads texts that share a beginning as it reads each alone: tried on a few tokens.

What is tried are the two ways to share: tokens behind kept keys and values, and trees laid side by
side in one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from evalkit.errors import in_one_line, is_out_of_memory
from evalkit.inference.packed_lines import Line
from evalkit.inference.prefix_cache import KeyValues
from evalkit.inference.prefix_tree import Node, Row, TokenIds
from evalkit.models.caches import attends_to_all
from evalkit.scoring.head import Forward
from evalkit.scoring.rounding import row_difference, same_rows

if TYPE_CHECKING:
    from evalkit.inference.prefix import PrefixRunner

_Pair = tuple[TokenIds, TokenIds]
# Kinds of attention that take any mask.
_ANY_MASK = ("eager", "sdpa")
# How much more rows may differ than those of another batch do.
_OF_ROUNDING = 2.0


def try_keys(runner: PrefixRunner, tokens: TokenIds, cut: int) -> str:
    """Why `tokens` behind the kept keys and values of the first `cut` are not what one pass gives.

    A beginning of half as many is gone on with in the same batch. Of the ways to count positions
    (from 0; from behind the padding id, as RoBERTa does) the runner takes the first that gives the
    rows of the single passes; "" where there is one. Models that count the slots of the cache have
    none.
    """
    pairs = [(tokens[:cut], tokens[cut:]), (tokens[: cut // 2], tokens[cut // 2 : cut])]
    reason = "counts positions that cannot be told to it"
    try:
        wanted = [_alone(runner, *pair) for pair in pairs]
        if not all(rows.isfinite().all() for rows in wanted):
            # Whoever scores them says so.
            return ""
        for first in _first_positions(runner):
            runner.first_position = first
            found = _behind_keys(runner, pairs)
            if _same(runner, pairs, found, wanted):
                return ""
    except Exception as error:  # whatever a foreign model makes of these keys and values
        if is_out_of_memory(error):
            # What does not fit is halved later; these rows are not run for their numbers.
            return ""
        reason = f"does not run behind kept keys and values ({in_one_line(error)})"
    return f"{type(runner.model).__name__} {reason}"


def may_pack(forward: Forward) -> bool:
    """Whether trees can be laid side by side at all: each layer must take any mask as it is."""
    model = forward.model
    return (
        not forward.masked
        and type(model).__module__.startswith("transformers.")
        and model.config.get_text_config()._attn_implementation in _ANY_MASK
        and attends_to_all(model)
    )


def try_line(
    runner: PrefixRunner,
    line: Line,
    parent: KeyValues | None,
    sequences: Mapping[int, TokenIds],
) -> bool:
    """Whether the first and the last leaf of `line` have the rows of passes of their own."""
    leaves = [place for place, node in enumerate(line.nodes) if not node.children]
    try:
        step = runner.line_step([line], parent)
        rows = step.rows.flatten(0, 1)
        pairs, found = [], []
        for place in {leaves[0], leaves[-1]}:
            node, first = line.nodes[place], step.firsts[place]
            tokens = sequences[node.sequences[0]]
            pairs.append((tokens[: node.start], tokens[node.start :]))
            found.append(rows[first : first + len(node.tokens)])
        return _same(runner, pairs, found, [_alone(runner, *pair) for pair in pairs])
    except Exception as error:  # whatever a foreign model makes of such a mask
        return is_out_of_memory(error)


def _same(
    runner: PrefixRunner,
    pairs: Sequence[_Pair],
    found: Sequence[Tensor],
    wanted: Sequence[Tensor],
) -> bool:
    """Whether rows `found` of each of `pairs` are those `wanted` of passes of their own.

    Some methods round a row by what else is in the batch (LLM.int8()): no more is asked of them
    than that the rows differ as little as in one batch without anything shared.
    """
    if all(same_rows(one, other) for one, other in zip(found, wanted, strict=True)):
        return True
    together = _together(runner, pairs)
    rounding, apart = (
        max(row_difference(one, other) for one, other in zip(rows, wanted, strict=True))
        for rows in (together, found)
    )
    return apart <= _OF_ROUNDING * rounding


def _together(runner: PrefixRunner, pairs: Sequence[_Pair]) -> list[Tensor]:
    """Rows of the second of each of `pairs` behind the first, whole sequences in one batch."""
    tokens = [np.concatenate(pair).astype(np.int32) for pair in pairs]
    rows = runner.states(None, runner.inputs(tokens, [0] * len(tokens)))
    return [
        row[len(beginning) : len(whole)]
        for row, whole, (beginning, _) in zip(rows, tokens, pairs, strict=True)
    ]


def _first_positions(runner: PrefixRunner) -> tuple[int, ...]:
    padding = runner.model.config.get_text_config().pad_token_id
    return (0, padding + 1) if runner.takes_positions and isinstance(padding, int) else (0,)


def _alone(runner: PrefixRunner, beginning: TokenIds, rest: TokenIds) -> Tensor:
    """Rows (length of `rest`, width) from one pass over both."""
    tokens = np.concatenate([beginning, rest]).astype(np.int32)
    return runner.states(None, runner.inputs([tokens], [0]))[0, len(beginning) :]


def _behind_keys(runner: PrefixRunner, sequences: Sequence[_Pair]) -> list[Tensor]:
    """Rows of each of `sequences` behind its beginning, all in one batch."""
    pairs = [tuple(np.asarray(part, dtype=np.int32) for part in pair) for pair in sequences]
    roots = [
        Row(Node(first, 0, [], children=[Node(rest, len(first), [])]), 0) for first, rest in pairs
    ]
    parent = runner.step(roots, None, True).key_values
    below = [Row(row.node.children[0], index) for index, row in enumerate(roots)]
    rows = runner.step(below, parent, False).rows
    return [row[: len(rest)] for row, (_, rest) in zip(rows, pairs, strict=True)]
