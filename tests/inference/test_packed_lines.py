"""Small trees side by side in one row: every token sees and counts what it would alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prefix_models import model_of, runner_of

from evalkit.inference import sharing
from evalkit.inference.budget import Budget
from evalkit.inference.packed_lines import Line, lay_out, mask_of, positions_of, tree_tokens
from evalkit.inference.prefix_scores import Request, score_requests
from evalkit.inference.prefix_tree import Node, build_tree


def tree(beginning: int, *endings: int) -> Node:
    """A root of tokens 0, 1, … with children of further tokens."""
    made = iter(range(10_000))

    def tokens(count: int) -> np.ndarray:
        return np.asarray([next(made) for _ in range(count)], dtype=np.int32)

    root = Node(tokens(beginning), 3, [])
    root.children = [Node(tokens(count), root.end, []) for count in endings]
    return root


def test_a_token_sees_its_own_way_from_the_root_and_no_sibling() -> None:
    (line,) = lay_out([(tree(2, 1, 2), 0)], 20)
    assert line.visible().astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert positions_of([line]).tolist() == [[3, 4, 5, 5, 6]]


def test_rows_of_different_pasts_end_them_at_one_slot() -> None:
    short, long = (lay_out([(tree(*sizes), 0)], 20)[0] for sizes in ((1,), (2, 1)))
    mask = mask_of([short, long], [1, 2], torch.float32)[:, 0] == 0
    assert mask[0].int().tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    assert mask[1].int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_lines_are_few_and_of_like_length_and_hold_trees_of_one_parent() -> None:
    sizes = [17, 9, 30, 4, 22, 13, 8, 3, 26, 11, 19, 6]
    trees = [(tree(size), index % 2) for index, size in enumerate(sizes)]
    lines = lay_out(trees, 40)
    assert [line.parent for line in lines] == [0, 0, 0, 0, 1, 1]
    assert sum(line.length for line in lines) == sum(sizes)
    for parent in (0, 1):
        lengths = [line.length for line in lines if line.parent == parent]
        assert max(lengths) - min(lengths) <= 10 and max(lengths) <= 40
        held = {id(node) for line in lines if line.parent == parent for node in line.nodes}
        assert held == {id(root) for root, of in trees if of == parent}


def test_a_line_that_does_not_fit_is_cut_between_trees() -> None:
    (line,) = lay_out([(tree(3, 1), 0), (tree(2), 0), (tree(1), 0)], 20)
    halves = line.halves()
    assert [half.length for half in halves] == [4, 3]
    assert halves[0].halves() == []


def questions() -> list[Request]:
    random = np.random.default_rng(0)
    examples = [int(token) for token in random.integers(4, 90, 30)]
    contexts = [
        [*beginning, *(int(token) for token in random.integers(4, 90, count))]
        for beginning in ([], examples)
        for count in (20, 25, 31, 24, 22)
    ]
    return [
        Request(c, [int(t) for t in random.integers(4, 90, 3)]) for c in contexts for _ in "abc"
    ]


@pytest.mark.parametrize("name", ["phi-3", "llama-tied", "learned positions"])
def test_questions_take_one_unpadded_pass_behind_their_examples(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, requests = model_of(name), questions()
    runner = runner_of(model, Budget(256, 4096))
    steps = []
    for step in runner.run([[*r.context, *r.continuation][:-1] for r in requests]):
        steps.append(step.rows.shape[:2])
    distinct = sum(map(tree_tokens, build_tree(dict(enumerate(
        [*r.context, *r.continuation][:-1] for r in requests
    )))))  # fmt: skip
    padded = sum(rows * length for rows, length in steps)
    assert distinct <= padded < 1.2 * distinct
    scores, _ = score_requests(runner, requests, max_length=100)
    monkeypatch.setattr(sharing, "may_pack", lambda _: False)
    monkeypatch.setattr("evalkit.inference.prefix.may_pack", lambda _: False)
    levels, _ = score_requests(runner_of(model), requests, max_length=100)
    assert [score.log_likelihood for score in scores] == pytest.approx(
        [score.log_likelihood for score in levels], abs=2e-4
    )


@pytest.mark.parametrize("name", ["sliding window", "block-sparse", "alibi"])
def test_models_that_do_not_take_any_mask_run_level_by_level(name: str) -> None:
    runner = runner_of(model_of(name))
    score_requests(runner, questions(), max_length=100)
    assert runner._packs is False


def test_a_model_that_reads_such_rows_otherwise_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = Line.visible
    monkeypatch.setattr(Line, "visible", lambda line: np.tril(np.ones_like(seen(line))))
    model = model_of("llama-tied")
    runner = runner_of(model)
    scores, _ = score_requests(runner, questions(), max_length=100)
    assert runner._packs is False
    monkeypatch.undo()
    right, _ = score_requests(runner_of(model), questions(), max_length=100)
    assert [score.log_likelihood for score in scores] == pytest.approx(
        [score.log_likelihood for score in right], abs=2e-4
    )
