"""What variants answer to the same prompts."""

from __future__ import annotations

from typing import Unpack

from evalkit.declaration import documented, resolved
from evalkit.options import AnswersOptions
from evalkit.progress import Listener, listening
from evalkit.records.answers import Answers


@documented(AnswersOptions)
def answers(
    *variants: str, progress: Listener | None = None, **options: Unpack[AnswersOptions]
) -> Answers:
    """Let `variants` answer the same prompts, and say how their answers differ from the first's.

    Chat template, stop tokens and all other settings of generation are the first variant's. What
    the store holds is not answered again unless `fresh`.

    Raises UsageError, DataError or ModelError before anything starts, VariantError where the first
    variant fails; another that fails is a row that says so.
    """
    from evalkit.running.answers.run import run_answers

    given = resolved(AnswersOptions, options)
    with listening(progress) as listener:
        return run_answers([str(v) for v in variants], given, listener)
