"""Interpolated modified Kneser-Ney smoothing: the yardstick the demo model has to beat.

Definition: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling"
(1998), section 3: highest order on counts, lower orders on continuation counts, three discounts
per order estimated from the counts of counts, the unigram interpolated with the uniform
distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Order:
    """Sorted n-gram keys with their discounted share, and their contexts with the rest."""

    keys: Ints
    shares: Floats
    contexts: Ints
    backoff: Floats


def _discounts(counts: Ints) -> Floats:
    """Modified Kneser-Ney discounts for counts of 1, 2 and more (index 0 unused)."""
    n1, n2, n3, n4 = (max(1, int((counts == c).sum())) for c in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.asarray(np.clip(found, 0.0, [0.0, 1.0, 2.0, 3.0]))


def _order(keys: Ints, counts: Ints, vocabulary: int) -> _Order:
    """Keys hold the context in their upper part: `key // vocabulary`."""
    discount = _discounts(counts)[np.minimum(counts, 3)]
    contexts, inverse = np.unique(keys // vocabulary, return_inverse=True)
    totals = np.bincount(inverse, weights=counts)
    removed = np.bincount(inverse, weights=discount)
    return _Order(keys, (counts - discount) / totals[inverse], contexts, removed / totals)


def _look_up(keys: Ints, values: Floats, wanted: Ints, default: float) -> Floats:
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], default)


class KneserNeyTrigram:
    """A 3-gram model of token ids below `vocabulary`.

    Documents are given one after another in one array and begin after `boundary`, an id that
    closes each of them; contexts do not reach across it.
    """

    def __init__(self, ids: npt.NDArray[Any], vocabulary: int, boundary: int = 0) -> None:
        self.vocabulary = vocabulary
        self.boundary = boundary
        trigrams, counts = np.unique(self._trigram_keys(ids), return_counts=True)
        # Continuation counts: in how many different contexts a shorter n-gram was seen.
        bigrams, bigram_counts = np.unique(trigrams % vocabulary**2, return_counts=True)
        unigrams, unigram_counts = np.unique(bigrams % vocabulary, return_counts=True)
        self._orders = (
            _order(unigrams, unigram_counts, vocabulary),
            _order(bigrams, bigram_counts, vocabulary),
            _order(trigrams, counts, vocabulary),
        )

    def _trigram_keys(self, ids: npt.NDArray[Any]) -> Ints:
        """(tokens,) keys of each token with the two before it."""
        tokens = ids.astype(np.int64)
        before = np.concatenate(([self.boundary], tokens[:-1]))
        earlier = np.concatenate(([self.boundary, self.boundary], tokens[:-2]))
        earlier = np.where(before == self.boundary, self.boundary, earlier)
        return np.asarray((earlier * self.vocabulary + before) * self.vocabulary + tokens)

    def negative_log_likelihoods(self, ids: npt.NDArray[Any]) -> Floats:
        """(tokens,) nats of each token, given the two before it."""
        keys = self._trigram_keys(ids)
        probability = np.full(len(keys), 1 / self.vocabulary)
        for n, order in enumerate(self._orders, start=1):
            wanted = keys % self.vocabulary**n
            share = _look_up(order.keys, order.shares, wanted, 0.0)
            context = wanted // self.vocabulary
            probability = share + _look_up(order.contexts, order.backoff, context, 1.0) * (
                probability
            )
        return np.asarray(-np.log(probability))
