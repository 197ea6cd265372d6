"""Which tokens of the evaluation texts a variant hurts most, with what stood before them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.models.resolve import resolve_model
from evalkit.records import Comparison, Suite, content_hash
from evalkit.running.gather import reopen
from evalkit.store.store import Store
from evalkit.suites.windows import Windows

CONTEXT_TOKENS = 16


@dataclass(frozen=True)
class WorstToken:
    """A token with the text before it and its probability under baseline and variant."""

    text: str
    context: str
    token: str
    baseline: float
    variant: float


def worst_tokens(
    comparison: Comparison, store: Store, variant: str, count: int
) -> list[WorstToken]:
    """The `count` tokens whose negative log-likelihood grew most, the worst first.

    Raises EvalkitError where the comparison has no text or its store is gone.
    """
    tables = reopen(comparison, store)
    suite = next((part for part in comparison.suite.parts() if part.texts), None)
    pair = [tables[label].tokens for label in (comparison.rows[0].variant.label, variant)]
    if suite is None or any(table is None for table in pair):
        raise EvalkitError("not measured: values token by token; compare with a --text first")
    before, after = (table.tokens("nll") for table in pair if table is not None)
    grown = after - before
    order = np.argsort(-grown)[:count]
    place = pair[1]
    assert place is not None
    window, position = place.tokens("window")[order], place.tokens("position")[order]
    windows = _windows(comparison, store, suite)
    decode = _decoder(comparison.model.name)
    found = []
    for index, at, where in zip(window, position, order, strict=True):
        ids = windows.window(int(index))
        found.append(
            WorstToken(
                text=windows.slice_names[windows.slice[index]],
                context=decode(ids[max(0, at - CONTEXT_TOKENS) : at].tolist()),
                token=decode([int(ids[at])]),
                baseline=float(np.exp(-before[where])),
                variant=float(np.exp(-after[where])),
            )
        )
    return found


def _windows(comparison: Comparison, store: Store, suite: Suite) -> Windows:
    file = store.windows_file(content_hash([comparison.model.identity, suite.id]))
    if not file.exists():
        raise EvalkitError(f"{store.root} no longer holds the windows of this comparison")
    return Windows.load(file)


def _decoder(model: str) -> Callable[[list[int]], str]:
    """What turns ids back into text: the model's own tokenizer."""
    from evalkit.models.loading import load_tokenizer

    tokenizer = load_tokenizer(resolve_model(model, offline=True).path)
    return lambda ids: str(tokenizer.decode(ids))
