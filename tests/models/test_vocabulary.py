"""A tokenizer without its vocabulary is named, and so is a token that the embedding lacks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalkit.errors import ModelError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.identity import Identity
from evalkit.models.loading import load_tokenizer
from evalkit.models.vocabulary import require_embedded, vocabulary_fault


@pytest.mark.parametrize(
    ("files", "own", "says"),
    [
        ((), (), "none of tokenizer.json, tokenizer.model, vocab.json with merges.txt is there"),
        (("tokenizer_config.json",), ("spiece.model",), "spiece.model is there, only tokenizer_c"),
        (("vocab.json", "tokenizer_config.json"), (), "vocab.json is there without merges.txt"),
        (("merges.txt",), (), "merges.txt is there without vocab.json"),
        (("tokenizer.json",), (), ""),
        (("vocab.json", "merges.txt"), (), ""),
        (("spiece.model",), ("spiece.model",), ""),
        (("cl100k_base.tiktoken",), (), ""),
    ],
)
def test_what_is_missing_is_named(
    files: tuple[str, ...], own: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    found = vocabulary_fault(tmp_path, own)
    assert says in found
    assert bool(says) == bool(found)


@pytest.mark.parametrize("kind", ["gpt2", "t5", "llama"])
def test_a_tokenizer_that_transformers_makes_up_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ModelError, match=r"no usable tokenizer: none of tokenizer\.json") as caught:
        load_tokenizer(tmp_path)
    assert "copy the tokenizer files of the original model" in str(caught.value)


def test_the_token_its_id_and_the_rows_are_named() -> None:
    tokenizer = SimpleNamespace(convert_ids_to_tokens=lambda id_: f"<{id_}>")
    require_embedded([0, 511], tokenizer, 512, "text a")
    require_embedded([], tokenizer, 512, "text a")
    require_embedded([9999], tokenizer, None, "text a")
    with pytest.raises(ModelError, match=r"token '<512>' of text a has id 512, .* only 512 rows"):
        require_embedded([3, 512, 600], tokenizer, 512, "text a")


def test_rows_are_those_of_the_text_model() -> None:
    def rows(config: dict[str, Any]) -> int | None:
        return Checkpoint("x", Path(), config, Identity("x"), ()).embedding_rows

    assert rows({"vocab_size": 7}) == 7
    assert rows({"text_config": {"vocab_size": 8}}) == 8
    assert rows({"model_type": "x"}) is None
