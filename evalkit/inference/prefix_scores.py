"""Log-likelihoods of continuations given their contexts, shared contexts computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalkit.errors import DataError
from evalkit.inference.prefix import PrefixRunner, Step
from evalkit.inference.prefix_tree import Node, TokenIds, Tokens
from evalkit.scoring.halving import run_or_halve
from evalkit.scoring.head import Forward

_QUOTED = 40


@dataclass(frozen=True)
class Score:
    """Sum of the log-probabilities of a continuation's tokens, in nats.

    `greedy` says whether every token is the most probable one at its place.
    """

    log_likelihood: float
    greedy: bool


@dataclass(frozen=True)
class Request:
    """Tokens to score after a context, both non-empty; `text` is the continuation's."""

    context: TokenIds
    continuation: TokenIds
    text: str = ""

    def fault(self, max_length: int) -> str:
        """Why the continuation cannot be scored by `max_length` tokens; "" where it can."""
        if not len(self.context) or not len(self.continuation):
            return "a context or continuation has no tokens: it cannot be scored"
        if len(self.continuation) <= max_length:
            return ""
        return (
            f"the continuation {self.text[:_QUOTED].strip()!r}… has {len(self.continuation)}"
            f" tokens, the model's context is {max_length}: take a model with a longer one, or"
            " a --limit that ends before this item"
        )

    def fitted(self, max_length: int) -> tuple[Tokens, Tokens, bool]:
        """The tokens to run, the tokens to predict with the last of them, whether it was cut.

        A context that is too long loses tokens from the left (as in lm-eval's own backend).
        Raises DataError when nothing can be scored, as `fault` says.
        """
        if fault := self.fault(max_length):
            raise DataError(fault)
        tokens = np.concatenate([self.context, self.continuation]).astype(np.int32)
        kept = tokens[-(max_length + 1) :]
        return kept[:-1], tokens[len(self.context) :], len(kept) < len(tokens)


def score_requests(
    runner: PrefixRunner,
    requests: Sequence[Request],
    *,
    max_length: int,
    softmax_dtype: torch.dtype | None = torch.float32,
    known: Mapping[int, Score] | None = None,
    on_scored: Callable[[Mapping[int, Score]], None] | None = None,
) -> tuple[list[Score], int]:
    """Scores in the order of `requests`, and the number of contexts that were cut.

    Args:
        runner: the model and its batch budget.
        requests: contexts and continuations as token ids.
        max_length: tokens the model can attend to.
        softmax_dtype: type the log-softmax is taken in; None keeps the type of the logits.
        known: scores of earlier, by index in `requests`; the batches are the same without them.
        on_scored: called after each batch with the other requests' new scores, by index.
    """
    known = known or {}
    fitted = [request.fitted(max_length) for request in requests]
    sums = _Sums([targets for _, targets, _ in fitted], [len(run) for run, _, _ in fitted])
    for step in runner.run([run for run, _, _ in fitted], done=known):
        wanted = sums.wanted(step)
        if not len(wanted.places):
            continue
        values, greedy = _score(step.rows, runner.forward, wanted, softmax_dtype)
        ended = sums.add(wanted.owners, values, greedy)
        if on_scored is not None:
            on_scored({index: sums.score(index) for index in ended if index not in known})
    scores = [known.get(index) or sums.score(index) for index in range(len(requests))]
    return scores, sum(cut for _, _, cut in fitted)


@dataclass(frozen=True)
class _Wanted:
    """Tokens that a step can score: place among its rows that predicts them, request, token id."""

    places: NDArray[np.int64]
    owners: NDArray[np.int64]
    targets: NDArray[np.int64]


class _Sums:
    """What has been scored so far of every request."""

    def __init__(self, targets: list[Tokens], lengths: list[int]) -> None:
        self.targets = targets
        self.first = [n - len(t) for n, t in zip(lengths, targets, strict=True)]
        self.left = np.asarray([len(t) for t in targets])
        self.sums = np.zeros(len(targets), dtype=np.float64)
        self.greedy = np.ones(len(targets), dtype=bool)

    def wanted(self, step: Step) -> _Wanted:
        found = [
            (first + position, owner, target)
            for first, node in zip(step.firsts, step.nodes, strict=True)
            for position, owner, target in self._wanted_of(node)
        ]
        return _Wanted(*np.asarray(found, dtype=np.int64).reshape(-1, 3).T)

    def _wanted_of(self, node: Node) -> Iterator[tuple[int, int, int]]:
        for owner in node.sequences:
            first = self.first[owner]
            for position in range(max(first, node.start), node.end):
                yield position - node.start, owner, self.targets[owner][position - first]

    def add(
        self, owners: NDArray[np.int64], values: NDArray[np.float64], greedy: NDArray[np.bool_]
    ) -> list[int]:
        """Add scored tokens to their requests; return the requests that are complete now."""
        np.add.at(self.sums, owners, values)
        np.logical_and.at(self.greedy, owners, greedy)
        np.subtract.at(self.left, owners, 1)
        touched = np.unique(owners)
        return [int(index) for index in touched[self.left[touched] == 0]]

    def score(self, index: int) -> Score:
        return Score(float(self.sums[index]), bool(self.greedy[index]))


def _score(
    states: Tensor, forward: Forward, wanted: _Wanted, softmax_dtype: torch.dtype | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-probability of each wanted token, and whether it is the most probable one."""
    places, back = np.unique(wanted.places, return_inverse=True)
    scored = states.flatten(0, 1)[torch.from_numpy(places).to(states.device)]
    values = np.empty(len(wanted.targets), dtype=np.float64)
    greedy = np.empty(len(wanted.targets), dtype=bool)
    low, at_once = 0, forward.rows_at_once
    while low < len(scored):
        at_once = min(at_once, len(scored) - low)
        here = np.flatnonzero((back >= low) & (back < low + at_once))
        found = run_or_halve(
            partial(
                _score_rows,
                scored[low : low + at_once],
                forward,
                back[here] - low,
                wanted.targets[here],
                softmax_dtype,
            ),
            at_once,
            "row of logits",
            scored.device,
            halve=True,
        )
        if found is None:
            at_once //= 2
            continue
        values[here], greedy[here] = found
        low += at_once
    return values, greedy


@torch.inference_mode()
def _score_rows(
    rows: Tensor,
    forward: Forward,
    places: NDArray[np.int64],
    tokens: NDArray[np.int64],
    softmax_dtype: torch.dtype | None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-probability of each of `tokens`, predicted by the rows at `places`; whether it is top."""
    of, targets = (torch.from_numpy(one).to(rows.device) for one in (places, tokens))
    log_probabilities = torch.log_softmax(forward.logits(rows), dim=-1, dtype=softmax_dtype)
    values = log_probabilities[of, targets].double().cpu().numpy()
    return values, (log_probabilities.argmax(-1)[of] == targets).cpu().numpy()
