"""Before anything is measured: the tokenizer is whole, and its tokens are those of the model."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from evalkit.models.loading import load_tokenizer
from evalkit.progress import Event, Listener
from evalkit.running.compare.tasks import part_requests
from evalkit.running.compare.texts import load_windows
from evalkit.running.job import Job
from evalkit.running.remaining import unfinished
from evalkit.store.store import Store
from evalkit.tasks.lm_eval_tokens import TextEncoder
from evalkit.tasks.prompts import ChatFormatter


def check_tokens(jobs: Sequence[Job], send: Listener) -> None:
    """Cut the texts that are left of `jobs` into windows, and build the prompts of their tasks.

    All variants share tokenizer, windows and prompts: what one of them has left stands for all.
    Raises ModelError, DataError or UsageError where one line tells what is wrong with them.
    """
    left = {
        part.run.suite.id: (job, part)
        for job in reversed(jobs)
        for part in job.parts
        if not part.is_probe and unfinished(Store(job.store), job, part)
    }
    for job, part in left.values():
        store = Store(job.store)
        if part.kind == "texts":
            send(Event("evalkit", "reading texts"))
            load_windows(store, job, part)
        else:
            send(Event("evalkit", f"building prompts of {part.name}"))
            tokenizer = _check_prompts(job, chat=part.run.suite.tasks[0].chat)
            part_requests(store, job, part, tokenizer)


def _check_prompts(job: Job, *, chat: bool) -> PreTrainedTokenizerBase:
    """Encode what stands in every prompt: the first token, the marks of a chat."""
    tokenizer = load_tokenizer(
        job.checkpoint.path, trust_remote_code=job.settings.trust_remote_code
    )
    prompt = ChatFormatter(tokenizer)([{"role": "user", "content": "a"}]) if chat else "a"
    TextEncoder(tokenizer, None, None, None, job.checkpoint.embedding_rows).encode(prompt)
    return tokenizer
