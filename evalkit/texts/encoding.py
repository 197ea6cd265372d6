"""From text to token ids: no special tokens slip in, and long texts are cut where it is exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[str], list[int]]

_CHUNK = 2**16
_CONTEXT = 64
_ATTEMPTS = 64


@dataclass(frozen=True)
class TextEncoder:
    """What the window conventions need of a tokenizer.

    `encode` adds no special tokens and takes strings such as `</s>` in a text as text. `adds_bos`
    says whether the tokenizer puts BOS before a text when it is called plainly.
    """

    encode: Encode
    bos_id: int | None
    eos_id: int | None
    adds_bos: bool


def text_encoder(tokenizer: Any) -> TextEncoder:
    """The `TextEncoder` of a transformers tokenizer."""

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        return ids

    bos_id: int | None = tokenizer.bos_token_id
    plain = tokenizer("a")["input_ids"]
    adds_bos = bos_id is not None and len(plain) > 0 and plain[0] == bos_id
    return TextEncoder(encode, bos_id, tokenizer.eos_token_id, adds_bos)


def encode_text(encode: Encode, text: str, chunk: int = _CHUNK) -> NDArray[np.int32]:
    """The ids of `text`, equal to `encode(text)`, with memory for one chunk of characters.

    A tokenizer needs some 200 bytes a character while it works, so a long text is cut after line
    breaks. A cut is taken only where encoding the neighbourhood in one piece and in two gives the
    same ids; a text without such places is encoded whole.
    """
    if len(text) <= chunk:
        return np.asarray(encode(text), dtype=np.int32)
    lead = encode("\n")
    pieces: list[NDArray[np.int32]] = []
    start = 0
    while start < len(text):
        end = _next_cut(encode, text, start + chunk, lead)
        # Tokenizers that put a blank before a text do so before this line break, and both go.
        ids = encode("\n" + text[start:end])[len(lead) :] if start else encode(text[:end])
        pieces.append(np.asarray(ids, dtype=np.int32))
        start = end
    return np.concatenate(pieces)


def _next_cut(encode: Encode, text: str, position: int, lead: list[int]) -> int:
    """The first proven cut at or after `position`, else the end of the text."""
    for _ in range(_ATTEMPTS):
        position = text.find("\n", position) + 1
        if position == 0 or position >= len(text):
            break
        if _exact(
            encode,
            text[max(0, position - _CONTEXT) : position],
            text[position : position + _CONTEXT],
            lead,
        ):
            return position
    return len(text)


def _exact(encode: Encode, left: str, right: str, lead: list[int]) -> bool:
    again = encode("\n" + right)
    return again[: len(lead)] == lead and encode(left + right) == encode(left) + again[len(lead) :]
