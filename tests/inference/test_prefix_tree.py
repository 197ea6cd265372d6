"""The prefix tree: every sequence is a path, shared parts are nodes of their own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.inference.prefix_tree import MAXIMUM_LEVELS, Node, build_tree

SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=40), min_size=1, max_size=12)


def nodes(roots: list[Node]) -> list[Node]:
    """Every node of the tree, each before its children."""
    return [found for root in roots for found in (root, *nodes(root.children))]


def paths(roots: list[Node]) -> dict[int, list[int]]:
    """The tokens that lead to each sequence's end, by the sequence's number."""
    found: dict[int, list[int]] = {}
    waiting = [(node, []) for node in roots]
    while waiting:
        node, before = waiting.pop()
        here = before + node.tokens.tolist()
        assert node.start == len(before)
        assert node.end == len(here)
        for number in node.ends:
            assert number not in found
            found[number] = here
        below = [number for child in node.children for number in child.sequences]
        assert sorted(node.sequences) == sorted(node.ends + below)
        waiting += [(child, here) for child in node.children]
    return found


@settings(deadline=None, max_examples=200)
@given(SEQUENCES, st.booleans())
def test_every_sequence_is_one_path(sequences: list[list[int]], share: bool) -> None:
    roots = build_tree(dict(enumerate(sequences)), share=share)
    assert paths(roots) == dict(enumerate(sequences))


@settings(deadline=None, max_examples=200)
@given(SEQUENCES)
def test_sharing_never_costs_tokens_and_order_plays_no_part(sequences: list[list[int]]) -> None:
    def described(numbered: dict[int, list[int]]) -> list[tuple[int, list[int]]]:
        return [(node.start, node.tokens.tolist()) for node in nodes(build_tree(numbered))]

    shared = described(dict(enumerate(sequences)))
    distinct = {tuple(sequence) for sequence in sequences}
    assert sum(len(tokens) for _, tokens in shared) <= sum(len(one) for one in distinct)
    assert shared == described(dict(enumerate(reversed(sequences))))


def test_examples_questions_and_choices_are_three_levels() -> None:
    examples = list(range(100))
    questions = [[200 + item] * 30 for item in range(3)]
    choices = [[300 + choice] * 4 for choice in range(4)]
    sequences = [examples + question + choice for question in questions for choice in choices]
    (root,) = build_tree(dict(enumerate(sequences)))
    assert root.tokens.tolist() == examples
    assert [child.tokens.tolist() for child in root.children] == questions
    assert all(len(child.children) == 4 for child in root.children)
    tokens = sum(len(node.tokens) for node in nodes([root]))
    assert tokens == 100 + 3 * 30 + 12 * 4


def test_a_sequence_may_end_where_others_go_on() -> None:
    context = list(range(50))
    (root,) = build_tree({7: context, 8: [*context, 1], 9: [*context, 2, 3], 10: context})
    assert root.ends == [7, 10]
    assert [child.tokens.tolist() for child in root.children] == [[1], [2, 3]]


def test_a_short_common_start_is_not_worth_a_pass_of_its_own() -> None:
    sequences = {i: [1, 2, *([10 + i] * 40)] for i in range(5)}
    roots = build_tree(sequences)
    assert len(roots) == 5
    assert not any(root.children for root in roots)


def test_a_long_conversation_is_bounded_in_levels() -> None:
    turns = [list(range(40 * (turn + 1))) for turn in range(12)]

    def depth(node: Node) -> int:
        return 1 + max((depth(child) for child in node.children), default=0)

    roots = build_tree(dict(enumerate(turns)))
    assert max(depth(root) for root in roots) == MAXIMUM_LEVELS
    assert paths(roots) == dict(enumerate(turns))


@pytest.mark.parametrize("sequences", [{}, {3: [5]}])
def test_nothing_and_one(sequences: dict[int, list[int]]) -> None:
    assert paths(build_tree(sequences)) == sequences
