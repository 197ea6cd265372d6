"""Text to tokens and back, by the rules of lm-eval's Hugging Face backend."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2
from lm_eval.models.utils import _add_special_kwargs, has_bos_prefix
from transformers import PreTrainedTokenizerBase

from evalkit.errors import DataError
from evalkit.models.vocabulary import require_embedded

# Texts whose tokens are remembered: the choices of an item, asked in a row, share one context.
_REMEMBERED_TEXTS = 64
_QUOTED = 40


class TextEncoder:
    """A tokenizer with lm-eval's rules about special tokens and chat templates."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        add_bos_token: bool | None,
        prefix_token_id: int | None,
        chat_template_args: Mapping[str, Any] | None,
        rows: int | None = None,
    ) -> None:
        """Wrap `tokenizer`; the embedding has `rows` rows, None where they are not known."""
        self.tokenizer = tokenizer
        self.rows = rows
        self.add_bos_token = add_bos_token
        self.asked_prefix = prefix_token_id
        self.chat_template_args = dict(chat_template_args or {})
        self._remembered = lru_cache(_REMEMBERED_TEXTS)(self._encode)

    @property
    def end_token_id(self) -> int:
        """The token that ends a text; raises DataError for a tokenizer without one."""
        if self.tokenizer.eos_token_id is None:
            raise DataError(
                f"the tokenizer {self.tokenizer.name_or_path} names no end-of-text token, which "
                "tasks begin with where it has no BOS: set bos_token or eos_token in its "
                "tokenizer_config.json"
            )
        return int(self.tokenizer.eos_token_id)

    @property
    def end_text(self) -> str | None:
        """The end-of-text token as text, None for a tokenizer without one."""
        if self.tokenizer.eos_token_id is None:
            return None
        return str(self.tokenizer.decode([self.end_token_id], skip_special_tokens=False))

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without context."""
        for token in (self.asked_prefix, self.tokenizer.bos_token_id):
            if token is not None:
                return int(token)
        return self.end_token_id

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids; without a word about it, BOS is added as the tokenizer does, never twice."""
        return list(self._remembered(text, add_special_tokens))

    def chat_prompt(self, messages: list[dict[str, str]], *, generation: bool) -> str:
        """The prompt of a conversation; raises DataError for a tokenizer without a template."""
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise DataError(
                f"the tokenizer {self.tokenizer.name_or_path} has no chat template: leave the "
                "chat format out or take an instruction-tuned model"
            )
        try:
            return self._templated(messages, generation)
        except jinja2.exceptions.TemplateError:
            # Some templates refuse the system role; lm-eval leaves it out then.
            rest = [message for message in messages if message["role"] != "system"]
            return self._templated(rest, generation)

    def _encode(self, text: str, add_special_tokens: bool | None) -> tuple[int, ...]:
        options = _add_special_kwargs(add_special_tokens, self.add_bos_token)
        prefix = self.tokenizer.decode([self.prefix_token_id])
        if add_special_tokens is None and has_bos_prefix(text, prefix):
            options = {"add_special_tokens": False}
        ids = tuple(self.tokenizer.encode(text, **options))
        require_embedded(ids, self.tokenizer, self.rows, f"{text[:_QUOTED].strip()!r}…")
        return ids

    def _templated(self, messages: list[dict[str, str]], generation: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=generation,
            continue_final_message=not generation,
            **self.chat_template_args,
        )
        return text
