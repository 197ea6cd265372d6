"""The tokens of the evaluation texts that a variant hurts most, with what stood before them.

They are found and decoded where the variant is measured, which has the tokenizer, and stored
beside its values; here they are read. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.records import Comparison
from evalkit.results.load_measured import reopen
from evalkit.store.files import read_parquet
from evalkit.store.store import Store


@dataclass(frozen=True)
class WorstToken:
    """A token with the text before it and its probability under baseline and variant."""

    text: str
    context: str
    token: str
    baseline: float
    variant: float


def worst_tokens_file(table: Path) -> Path:
    """Where the worst tokens are stored: beside the per-token table they come from."""
    return table.with_name(table.name.replace("tokens", "worst", 1))


def worst_tokens(
    comparison: Comparison, store: Store, variant: str, count: int
) -> list[WorstToken]:
    """The `count` tokens whose negative log-likelihood grew most, the worst first.

    `variant` is the label of a row. Raises EvalkitError where the comparison has no text or its
    store is gone.
    """
    measured = reopen(comparison, store)[variant].measurements().get("perplexity")
    file = None if measured is None or not measured.table else store.root / measured.table
    if file is None or not worst_tokens_file(file).exists():
        raise EvalkitError("not measured: values token by token; compare with a --text first")
    columns = read_parquet(worst_tokens_file(file))
    rows = zip(*(columns[name] for name in WorstToken.__dataclass_fields__), strict=True)
    return [
        WorstToken(str(text), str(context), str(token), float(baseline), float(own))
        for text, context, token, baseline, own in rows
    ][:count]
