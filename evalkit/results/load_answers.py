"""From stored runs to what the analysis of answers needs, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evalkit.analysis.answers import Along, Said
from evalkit.results.load_measured import windows_table
from evalkit.store.files import read_parquet


def read_answers_table(file: Path) -> dict[int, Said]:
    """What a variant said, by the index of the prompt; raises StoreError for no such table."""
    columns = read_parquet(file, ["prompt", "text", "tokens", "stop", "lead", "seconds"])
    return {
        int(prompt): Said(
            text=str(text),
            tokens=tuple(map(int, tokens)),
            stop=stop,
            leads=tuple(map(float, leads)),
            seconds=float(seconds),
        )
        for prompt, text, tokens, stop, leads, seconds in zip(*columns.values(), strict=True)
    }


def read_along(file: Path) -> Along:
    """A variant's predictions along the baseline's answers, an entry for each prompt."""
    columns = read_parquet(windows_table(file))
    return Along(
        kl=columns["sum_kl"],
        same_top1=columns["sum_same_top1"],
        tokens=columns["scored"].astype(np.float64),
    )
