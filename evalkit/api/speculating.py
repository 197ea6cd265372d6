"""Speculative decoding: one variant drafts for another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from evalkit.declaration import documented, resolved
from evalkit.options import SpeculateOptions
from evalkit.progress import Listener, listening

if TYPE_CHECKING:
    from evalkit.records.bench import Speculation


@documented(SpeculateOptions)
def speculate(
    target: str,
    *drafts: str,
    progress: Listener | None = None,
    **options: Unpack[SpeculateOptions],
) -> tuple[Speculation, ...]:
    """Decode `target` with each of `drafts` proposing tokens, and compare with plain decoding.

    Both models are loaded in one process. The prompts are texts cut to `prompt` tokens and
    continued greedily by `generate`; `draft_tokens` are proposed before each pass.
    `prompt_lookup` also measures drafts taken from the text itself. What the quality pass of
    `compare` has measured for the same variants stands beside it as a prediction.

    A draft that fails is told to `progress` and left out. Raises UsageError, DataError or
    ModelError before anything starts, VariantError where nothing could be measured.
    """
    from evalkit.running.speculate import speculate as run

    given = resolved(SpeculateOptions, options)
    with listening(progress) as listener:
        return run([target, *drafts], given, listener)
