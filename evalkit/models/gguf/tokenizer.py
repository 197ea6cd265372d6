"""A tokenizer as llama.cpp wants it: words with their kinds, merges, special ids, chat template.

llama.cpp has its own code for cutting a text into words before merging, and knows it by a name;
convert_hf_to_gguf finds the name by a table of hashes, here it is the tokenizer's own rule.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType

from evalkit.errors import ModelError
from evalkit.models.gguf.check import vocabulary_of

# Its remarks on templates of pairs of texts, which nothing here is.
logging.getLogger("gguf.vocab").setLevel(logging.ERROR)
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_DIGITS = {"type": "Digits", "individual_digits": True}


def _split(numbers: str) -> dict[str, Any]:
    pattern = {"Regex": f"{_CONTRACTIONS}{numbers}{_REST}"}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _sequence(first: dict[str, Any], *, use_regex: bool) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": [first, _BYTES | {"use_regex": use_regex}]}


# The pre-tokenizers that llama.cpp has under these names.
PRE_TOKENIZERS = {
    "gpt-2": _BYTES | {"use_regex": True},
    "smollm": _sequence(_DIGITS, use_regex=True),
    "llama-bpe": _sequence(_split(r"\p{N}{1,3}"), use_regex=False),
    "qwen2": _sequence(_split(r"\p{N}"), use_regex=False),
}


def check_tokenizer(path: Path) -> None:
    """Raise ModelError where the tokenizer in the directory `path` is of no kind known here."""
    content = _content(path)
    if not _is_bytewise(content):
        _words_before_merging(path, content)


def add_tokenizer(writer: GGUFWriter, path: Path, rows: int) -> None:
    """Write the tokenizer in the directory `path` for an embedding of `rows` rows.

    Rows without a word become unused tokens, as in convert_hf_to_gguf.
    """
    content = _content(path)
    known, bytewise = vocabulary_of(path), _is_bytewise(content)
    added = {one["id"]: bool(one["special"]) for one in content.get("added_tokens") or ()}
    words = [known.get(index, f"[PAD{index}]") for index in range(rows)]
    writer.add_tokenizer_model("llama" if bytewise else "gpt2")
    writer.add_tokenizer_pre("default" if bytewise else _words_before_merging(path, content))
    writer.add_token_list(words)
    if bytewise:
        writer.add_token_scores(_scores(content, words))
        writer.add_add_space_prefix("Prepend" in json.dumps(content.get("normalizer")))
    writer.add_token_types(
        [_type(index, words[index], known, added, bytewise) for index in range(rows)]
    )
    SpecialVocab(path, load_merges=not bytewise, n_vocab=rows).add_to_gguf(writer, quiet=True)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
        kind = content["model"]["type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} has no tokenizer.json, from which GGUF's tokenizer is made: save the tokenizer"
            " with transformers"
        ) from error
    if kind != "BPE":
        raise ModelError(f"{path} has a tokenizer of type {kind}: GGUF files are made of BPE here")
    return dict(content)


def _is_bytewise(content: dict[str, Any]) -> bool:
    """Whether unknown characters fall back to bytes, as in SentencePiece's tokenizers."""
    return bool(content["model"].get("byte_fallback"))


def _words_before_merging(path: Path, content: dict[str, Any]) -> str:
    """llama.cpp's name of the rule by which a text is cut before merging."""
    own = _cutting(content.get("pre_tokenizer") or {})
    for name, known in PRE_TOKENIZERS.items():
        if own == _cutting(known):
            return name
    kinds = [step[0] for step in own]
    raise ModelError(
        f"{path} cuts texts into words by a rule ({', '.join(map(str, kinds)) or 'none'}) whose"
        " name in llama.cpp is not known here: convert it with llama.cpp's convert_hf_to_gguf.py"
    )


def _cutting(rule: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What decides where a pre-tokenizer cuts, step by step."""
    steps = rule.get("pretokenizers", [rule])
    own = ("individual_digits", "add_prefix_space", "behavior", "invert")
    return [
        (
            step.get("type"),
            step.get("pattern", {}).get("Regex"),
            step.get("type") == "ByteLevel" and step.get("use_regex", True),
            *(bool(step.get(name)) for name in own),
        )
        for step in steps
    ]


def _scores(content: dict[str, Any], words: list[str]) -> list[float]:
    """Minus the place of the merge that makes a word: llama.cpp merges the highest first."""
    places: dict[str, int] = {}
    for place, merge in enumerate(content["model"]["merges"]):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        places.setdefault("".join(pair), place)
    return [-float(places.get(word, len(places))) for word in words]


def _type(
    index: int, word: str, known: dict[int, str], added: dict[int, bool], bytewise: bool
) -> TokenType:
    if index not in known:
        return TokenType.UNUSED
    if index in added:
        return TokenType.CONTROL if added[index] else TokenType.USER_DEFINED
    if bytewise and len(word) == 6 and word.startswith("<0x"):
        return TokenType.BYTE
    return TokenType.NORMAL
