"""Tokenizer of Phi-3 Small: the cl100k ranks as a fast tokenizer, with the chat tokens."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import Tokenizer
from tokenizers.normalizers import Replace
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from evalkit.errors import UsageError

RANKS_FILE = "cl100k_base.tiktoken"
RANKS = 100_256
END_OF_TEXT = "<|endoftext|>"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

_NAMED = {
    100257: END_OF_TEXT,
    100258: "<|fim_prefix|>",
    100259: "<|fim_middle|>",
    100260: "<|fim_suffix|>",
    100261: "<|system|>",
    100262: "<|user|>",
    100263: "<|assistant|>",
    100266: "<|end|>",
    100276: "<|endofprompt|>",
}


def special_tokens() -> dict[str, int]:
    """Special tokens and their ids, 100256 to 100351, in the order of the ids.

    Ids without a meaning are dummies numbered as in Microsoft's tokenizer: 100264 and 100265
    first, then the gap at 100256, then upwards.
    """
    dummies = [100264, 100265, 100256, *(i for i in range(100267, 100352) if i not in _NAMED)]
    names = _NAMED | {token: f"<|dummy_id_{number}|>" for number, token in enumerate(dummies)}
    return {names[token]: token for token in sorted(names)}


def read_ranks(path: str) -> dict[bytes, int]:
    """Read a ranks file: a token in base64 and its id on each line.

    Raises:
        UsageError: the file is not the cl100k ranks.
    """
    try:
        lines = (line.split() for line in Path(path).read_bytes().splitlines() if line)
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (ValueError, binascii.Error):
        ranks = {}
    if len(ranks) != RANKS:
        raise UsageError(
            f"{path}: {len(ranks)} ranks read, {RANKS} expected; "
            f"fetch {RANKS_FILE} again from the model's repository"
        )
    return ranks


class _RanksConverter(TikTokenConverter):
    """transformers' converter, reading the file without the package tiktoken."""

    load_tiktoken_bpe = staticmethod(read_ranks)


class Phi3SmallTokenizer(PreTrainedTokenizerFast):
    """Fast tokenizer from `cl100k_base.tiktoken`, or from a saved `tokenizer.json`.

    No token is added to a text by itself. Special strings inside a text are plain text unless
    `split_special_tokens=False` asks for their ids; `apply_chat_template` encodes those of the
    template as ids and those inside messages as text. Padding goes to the left.

    Raises:
        UsageError: neither file is there, or the ranks are not cl100k's.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {
        "vocab_file": RANKS_FILE,
        "tokenizer_file": "tokenizer.json",
    }
    padding_side = "left"

    def __init__(self, vocab_file: str | None = None, **kwargs: Any) -> None:
        saved = kwargs.get("tokenizer_object") or kwargs.get("tokenizer_file")
        if not saved:
            kwargs["tokenizer_object"] = _from_ranks(vocab_file, kwargs.get("name_or_path"))
            for name in ("bos_token", "eos_token", "pad_token"):
                kwargs.setdefault(name, END_OF_TEXT)
            kwargs.setdefault("chat_template", CHAT_TEMPLATE)
        kwargs.setdefault("split_special_tokens", True)
        super().__init__(**kwargs)

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        """Pass the files on as they are; `__init__` reads whichever is there."""
        return kwargs

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Render messages, and by default encode them: special strings inside them stay text.

        A character that occurs nowhere in the messages breaks their special strings apart while
        the template's own are recognised, and is removed before the text is encoded.
        """
        if not kwargs.get("tokenize", True):
            return super().apply_chat_template(conversation, *args, **kwargs)
        options = kwargs.pop("tokenizer_kwargs", None) or {}
        guard = _unused_character(conversation)
        backend = self.backend_tokenizer
        normalizer = backend.normalizer
        backend.normalizer = Replace(guard, "")
        try:
            return super().apply_chat_template(
                _shield(conversation, guard),
                *args,
                tokenizer_kwargs={"split_special_tokens": False, **options},
                **kwargs,
            )
        finally:
            backend.normalizer = normalizer


def _from_ranks(vocab_file: str | None, source: str | None) -> Tokenizer:
    if vocab_file is None or not Path(vocab_file).is_file():
        raise UsageError(
            f"no {RANKS_FILE} in {source or vocab_file or 'the checkpoint'}: it holds the "
            "tokenizer; copy it there from the model's repository"
        )
    return _RanksConverter(vocab_file, extra_special_tokens=list(special_tokens())).converted()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _unused_character(conversation: Any) -> str:
    used = {character for text in _strings(conversation) for character in text}
    return next(chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in used)


def _shield(value: Any, guard: str) -> Any:
    """Put the guard between `<` and `|` of every string but the roles."""
    if isinstance(value, str):
        return value.replace("<|", f"<{guard}|")
    if isinstance(value, dict):
        return {k: v if k == "role" else _shield(v, guard) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shield(item, guard) for item in value]
    return value
