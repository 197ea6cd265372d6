"""Before anything is measured: the tokenizer is whole, and its tokens are those of the model."""

from __future__ import annotations

from evalkit.models.loading import load_tokenizer
from evalkit.progress import Event, Listener
from evalkit.running.compare.texts import load_windows
from evalkit.running.job import Job
from evalkit.store.store import Store
from evalkit.tasks.lm_eval_tokens import TextEncoder
from evalkit.tasks.prompts import ChatFormatter


def check_tokens(job: Job, send: Listener) -> None:
    """Cut the texts of `job` into windows, and see whether prompts of its tasks can be encoded.

    Raises ModelError, DataError or UsageError where one line tells what is wrong with them.
    """
    for part in job.parts:
        if part.kind == "texts":
            send(Event("evalkit", "reading texts"))
            load_windows(Store(job.store), job, part)
        else:
            _check_prompts(job, chat=part.run.suite.tasks[0].chat)


def _check_prompts(job: Job, *, chat: bool) -> None:
    """Encode what stands in every prompt: the first token, the marks of a chat."""
    tokenizer = load_tokenizer(
        job.checkpoint.path, trust_remote_code=job.settings.trust_remote_code
    )
    prompt = ChatFormatter(tokenizer)([{"role": "user", "content": "a"}]) if chat else "a"
    TextEncoder(tokenizer, None, None, None, job.checkpoint.embedding_rows).encode(prompt)
