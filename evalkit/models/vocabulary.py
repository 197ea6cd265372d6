"""Whether a tokenizer is whole, and whether its tokens have rows in the model's embedding."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evalkit.errors import ModelError
from evalkit.models.identity import TEMPLATE_FILES, TOKENIZER_CONFIG, tokenizer_files

_SETTINGS = {TOKENIZER_CONFIG, *TEMPLATE_FILES, "special_tokens_map.json", "added_tokens.json"}
_USUAL = ("tokenizer.json", "tokenizer.model", "vocab.json with merges.txt")
_PAIR = ("vocab.json", "merges.txt")


def vocabulary_fault(path: Path, own: Collection[str] = ()) -> str:
    """What the files of a tokenizer in `path` lack, in words; "" where nothing of it is known.

    `own` are further names of vocabulary files, those of the tokenizer's class.
    """
    present = {file.name for file in tokenizer_files(path)}
    present |= {name for name in own if (path / name).is_file()}
    vocabulary = present - _SETTINGS
    if not vocabulary:
        wanted = ", ".join(dict.fromkeys((*_USUAL, *sorted(set(own) - {*_PAIR, *_USUAL}))))
        rest = f", only {', '.join(sorted(present))}" if present else ""
        return f"none of {wanted} is there{rest}"
    if len(vocabulary) == 1 and (half := vocabulary & set(_PAIR)):
        return f"{half.pop()} is there without {(set(_PAIR) - vocabulary).pop()}"
    return ""


def require_embedded(ids: npt.ArrayLike, tokenizer: Any, rows: int | None, where: str) -> None:
    """Raise ModelError naming the first of `ids` that the embedding of `rows` rows does not have.

    `where` says in words what was encoded.
    """
    tokens = np.asarray(ids)
    if rows is None or not tokens.size or int(tokens.max()) < rows:
        return
    beyond = int(tokens[tokens >= rows][0])
    raise ModelError(
        f"token {tokenizer.convert_ids_to_tokens(beyond)!r} of {where} has id {beyond}, the model's"
        f" embedding only {rows} rows (0 to {rows - 1}): put the tokenizer files beside it that"
        " belong to these weights, or resize the embedding to the tokenizer"
    )
