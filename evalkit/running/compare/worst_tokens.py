"""Finding the tokens that a variant hurts most, and writing them down as text.

Decoding needs the tokenizer, which is at hand only where the variant is measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evalkit.results.load_measured import SortedColumns
from evalkit.results.worst_tokens import worst_tokens_file
from evalkit.store.files import write_parquet
from evalkit.texts.windows import Windows

CONTEXT_TOKENS = 16
KEPT_TOKENS = 200


def save_worst_tokens(table: Path, baseline: Path, windows: Windows, tokenizer: Any) -> None:
    """Write the tokens of `table` whose negative log-likelihood grew most over `baseline`'s.

    Both are per-token tables of the same windows; the worst KEPT_TOKENS are kept, each with the
    CONTEXT_TOKENS before it, decoded.
    """
    mine = SortedColumns(table)
    before, after = SortedColumns(baseline)("nll"), mine("nll")
    order = np.argsort(before - after, kind="stable")[:KEPT_TOKENS]
    window, position = mine("window")[order], mine("position")[order]
    ids = [windows.window(int(index)) for index in window]
    places = list(zip(ids, position, strict=True))
    write_parquet(
        worst_tokens_file(table),
        {
            "text": [windows.slice_names[windows.slice[index]] for index in window],
            "context": [
                tokenizer.decode(row[max(0, at - CONTEXT_TOKENS) : at].tolist())
                for row, at in places
            ],
            "token": [tokenizer.decode([int(row[at])]) for row, at in places],
            "baseline": np.exp(-before[order]),
            "variant": np.exp(-after[order]),
        },
    )
