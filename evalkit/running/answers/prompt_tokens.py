"""Prompts as token ids, and the baseline's answers behind them as windows to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from evalkit.analysis.answers import Said
from evalkit.errors import DataError
from evalkit.records.answers import Message, Prompt
from evalkit.running.answers.plan import Asked
from evalkit.tasks.language_model import LanguageModel
from evalkit.tasks.prompts import ChatFormatter
from evalkit.texts.windows import Windows


def prompt_tokens(asked: Asked, lm: LanguageModel) -> list[list[int]]:
    """The token ids of every prompt, with room for the answer in the model's context.

    A chat, and a text where the model has a chat template and nobody asked for plain texts, is put
    into the template of the baseline's tokenizer. Raises UsageError for a chat without a template
    and DataError for a prompt that is too long.
    """
    has_template = bool(getattr(lm.tokenizer, "chat_template", None))
    templated = asked.templated and has_template
    chat = (
        ChatFormatter(lm.tokenizer, asked.arguments)
        if _needs_template(asked, has_template)
        else None
    )
    found = []
    for number, prompt in enumerate(asked.prompts, start=1):
        if chat is not None and (prompt.messages or templated):
            text = chat([asdict(turn) for turn in _turns(prompt, asked.system)])
            # The template has written what begins a text.
            ids = lm.tok_encode(text, add_special_tokens=False)
        else:
            ids = lm.tok_encode(prompt.text)
        room = lm.max_length - asked.generate
        if len(ids) > room:
            raise DataError(
                f"prompt {number} has {len(ids)} tokens: with --generate {asked.generate} at most"
                f" {max(0, room)} fit into the model's context of {lm.max_length}; shorten it or"
                " generate fewer"
            )
        found.append(ids or [lm.prefix_token_id])
    return found


def answer_windows(prompts: Sequence[Sequence[int]], answers: Sequence[Said]) -> Windows:
    """A window for each prompt with its answer, of which the answer's tokens are scored."""
    pieces = [[*prompt, *one.tokens] for prompt, one in zip(prompts, answers, strict=True)]
    count, nothing = len(pieces), np.zeros(len(pieces), np.int64)
    return Windows(
        tokens=np.concatenate([np.asarray(piece, np.int32) for piece in pieces]),
        offsets=np.concatenate(([0], np.cumsum([len(piece) for piece in pieces])), dtype=np.int64),
        score_from=np.array([len(prompt) for prompt in prompts], np.int32),
        slice=np.zeros(count, np.int32),
        document=np.arange(count, dtype=np.int32),
        slice_names=("answers",),
        words=nothing,
        bytes=nothing,
        left_out=nothing,
    )


def _needs_template(asked: Asked, has_template: bool) -> bool:
    chats = any(prompt.messages for prompt in asked.prompts)
    return chats or (asked.templated and has_template)


def _turns(prompt: Prompt, system: str) -> list[Message]:
    """The turns of the chat; a system message of the prompt's own stands."""
    turns = list(prompt.messages) or [Message("user", prompt.text)]
    own = any(turn.role == "system" for turn in turns)
    return turns if own or not system else [Message("system", system), *turns]
