"""Scores with shared prefixes equal one full forward pass for each request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from prefix_models import ALL, model_of, runner_of
from scoring_models import VOCABULARY
from transformers import PreTrainedModel

from evalkit.errors import DataError, OutOfMemoryError
from evalkit.inference.budget import Budget
from evalkit.inference.prefix_scores import Request, Score, score_requests
from evalkit.scoring.head import Forward


def questions(seed: int = 0) -> list[Request]:
    """Few-shot items with shared examples, items without, one-token choices, repeats."""
    random = np.random.default_rng(seed)

    def tokens(count: int) -> list[int]:
        return [int(token) for token in random.integers(4, VOCABULARY, count)]

    examples = tokens(30)
    contexts = [examples + tokens(count) for count in (3, 9, 17, 9)]
    contexts += [tokens(count) for count in (1, 5, 21, 40)]
    requests = [
        Request(context, tokens(length))
        for context in contexts
        for length in (1, 1, 4, int(random.integers(2, 12)))
    ]
    return [*requests, requests[2], Request(requests[0].context, requests[2].continuation)]


def one_by_one(model: PreTrainedModel, requests: Sequence[Request], max_length: int) -> list[Score]:
    scores = []
    for request in requests:
        tokens = [*request.context, *request.continuation][-(max_length + 1) :]
        count = len(request.continuation)
        with torch.no_grad():
            logits = model(torch.tensor([tokens[:-1]])).logits[0, -count:]
        targets = torch.tensor(tokens[-count:])
        chosen = logits.double().log_softmax(-1).gather(1, targets[:, None])
        greedy = bool((logits.argmax(-1) == targets).all())
        scores.append(Score(float(chosen.sum()), greedy))
    return scores


def difference(one: Sequence[Score], other: Sequence[Score]) -> float:
    return max(abs(a.log_likelihood - b.log_likelihood) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_shared_prefixes_change_no_score(name: str) -> None:
    model = model_of(name)
    wanted = one_by_one(model, questions(), 100)
    scores, cut = score_requests(runner_of(model), questions(), max_length=100)
    assert cut == 0
    assert difference(scores, wanted) < 2e-4
    assert [score.greedy for score in scores] == [score.greedy for score in wanted]


@pytest.mark.parametrize("name", ["phi-3", "sliding window", "block-sparse", "longrope"])
@pytest.mark.parametrize("budget", [Budget(1, 1), Budget(64, 200), Budget(10_000, 100_000)])
def test_the_budget_changes_no_score(name: str, budget: Budget) -> None:
    model = model_of(name)
    scores, _ = score_requests(runner_of(model, budget), questions(), max_length=100)
    assert difference(scores, one_by_one(model, questions(), 100)) < 2e-4


@pytest.mark.parametrize("name", ALL)
def test_only_models_without_recurrent_state_share(name: str) -> None:
    assert runner_of(model_of(name)).shares == (name != "recurrent")


def test_shared_tokens_are_run_once() -> None:
    model = model_of("phi-3")
    seen = 0

    def count(_module: Any, _arguments: Any, keywords: dict[str, Any]) -> None:
        nonlocal seen
        # The output head passes through the base model too, without cache or positions.
        own = keywords["use_cache"] or keywords.get("position_ids") is not None
        seen += keywords["input_ids"].numel() if own else 0

    context = list(range(4, 64))
    requests = [Request(context, [100 + choice, 101, 102]) for choice in range(4)]
    runner = runner_of(model)
    # What is tried first, once.
    score_requests(runner, requests, max_length=100)
    model.model.register_forward_pre_hook(count, with_kwargs=True)
    score_requests(runner, requests, max_length=100)
    assert seen == 60 + 4 * 2


def test_a_long_context_is_cut_from_the_left_and_counted() -> None:
    model = model_of("llama-tied")
    requests = questions()
    scores, cut = score_requests(runner_of(model), requests, max_length=30)
    assert cut == sum(len(r.context) + len(r.continuation) > 31 for r in requests)
    assert difference(scores, one_by_one(model, requests, 30)) < 2e-4


@pytest.mark.parametrize(
    ("context", "continuation"), [([], [5]), ([5], []), ([5], list(range(4, 40)))]
)
def test_what_cannot_be_scored_is_refused(context: list[int], continuation: list[int]) -> None:
    with pytest.raises(DataError):
        score_requests(
            runner_of(model_of("llama-tied")), [Request(context, continuation)], max_length=30
        )


def test_scores_are_told_as_they_come_and_known_ones_not_run_again() -> None:
    model, requests = model_of("phi-3"), questions()
    told: dict[int, Score] = {}
    runner = runner_of(model, Budget(64, 400))
    scores, _ = score_requests(runner, requests, max_length=100, on_scored=told.update)
    assert [told[i] for i in range(len(requests))] == scores

    known = {i: score for i, score in told.items() if i % 5}
    again: dict[int, Score] = {}
    second, _ = score_requests(
        runner, requests, max_length=100, known=known,
        on_scored=again.update,
    )  # fmt: skip
    # The batches that are left are the same ones, so the scores are equal to the last bit.
    assert second == scores
    assert again == {i: score for i, score in told.items() if i not in known}

    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    model.model.register_forward_pre_hook(count)
    score_requests(runner, requests, max_length=100, known=told)
    assert passes == 0


def test_a_batch_that_does_not_fit_is_halved() -> None:
    model, requests = model_of("llama-tied"), questions()
    halved: list[int] = []
    runner = runner_of(model, Budget(512, 4096), on_halved=halved.append)

    def limited(_module: Any, _arguments: Any, keywords: dict[str, Any]) -> None:
        if keywords["input_ids"].numel() > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.register_forward_pre_hook(limited, with_kwargs=True)
    scores, _ = score_requests(runner, requests, max_length=100)
    assert halved
    model.model._forward_pre_hooks.clear()
    assert difference(scores, one_by_one(model, requests, 100)) < 2e-4

    def never(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.register_forward_pre_hook(never)
    with pytest.raises(OutOfMemoryError, match="does not fit"):
        score_requests(runner, requests, max_length=100)


def test_logits_that_do_not_fit_are_made_of_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = model_of("llama-tied"), questions()[:6]
    expected, _ = score_requests(runner_of(model), requests, max_length=100)
    logits, rows = Forward.logits, []

    def limited(forward: Forward, states: torch.Tensor) -> torch.Tensor:
        rows.append(len(states))
        if len(states) > 5:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")
        return logits(forward, states)

    monkeypatch.setattr(Forward, "logits", limited)
    scores, _ = score_requests(runner_of(model), requests, max_length=100)
    assert max(rows) > 5
    assert difference(scores, expected) < 1e-5


def test_a_batch_that_may_not_be_halved_ends_in_one_line() -> None:
    model = model_of("llama-tied")
    halved: list[int] = []
    runner = runner_of(model, Budget(512, 4096, halve=False), on_halved=halved.append)

    def limited(_module: Any, _arguments: Any, keywords: dict[str, Any]) -> None:
        if keywords["input_ids"].numel() > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.register_forward_pre_hook(limited, with_kwargs=True)
    with pytest.raises(OutOfMemoryError, match="not halved because the numbers"):
        score_requests(runner, questions(), max_length=100)
    assert not halved


def test_the_softmax_may_keep_the_type_of_the_logits() -> None:
    model = model_of("phi-3").to(torch.bfloat16)
    own, _ = score_requests(runner_of(model), questions(), max_length=100)
    coarse, _ = score_requests(runner_of(model), questions(), max_length=100, softmax_dtype=None)
    rounded = [float(torch.tensor(score.log_likelihood, dtype=torch.bfloat16)) for score in own]
    single = [i for i, request in enumerate(questions()) if len(request.continuation) == 1]
    assert any(own[i].log_likelihood != rounded[i] for i in single)
    assert all(coarse[i].log_likelihood == pytest.approx(rounded[i], rel=0.01) for i in single)
