"""A served variant: its server started if need be, asked what it can do, and stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from evalkit.backends import resolved_options
from evalkit.backends.endpoint import SPEC, address_of
from evalkit.models.loading import load_tokenizer
from evalkit.progress import Event, Listener
from evalkit.records import content_hash
from evalkit.running.job import Job
from evalkit.running.process import stop_if_asked
from evalkit.serving.client import Client
from evalkit.serving.http import Address, ServerError
from evalkit.serving.process import served
from evalkit.store.store import Store
from evalkit.tasks.served_model import ServedModel

_NO_POSITIONS = 2048
# Text that every tokenizer takes apart, to see how the server reads prompts.
_SAMPLE = "The server reads this and goes on with one token."
# What a server is known by: how it goes on, and how likely it finds each word.
_QUESTIONS = (
    "The three largest cities of the country are",
    "Once there was a little girl who lived near the river. Every day she",
    "def mean(values):\n    return",
)


@contextmanager
def open_server(job: Job, send: Listener) -> Iterator[ServedModel]:
    """The model of `job` in its server, which runs while the block does.

    Raises ServerError in one line where the server cannot be started, reached or used.
    """
    address = address_of(job.variant)
    log = Store(job.store).root / "servers" / f"{content_hash([job.variant.text, job.serve])}.log"
    send(Event(job.variant.label, "starting the server" if job.serve else "asking the server"))
    with served(job.serve, address, log, stop_if_asked):
        tokenizer = load_tokenizer(
            job.checkpoint.path, trust_remote_code=job.settings.trust_remote_code
        )
        client = _opened(job, address, tokenizer)
        yield ServedModel(
            client,
            tokenizer,
            job.checkpoint.positions or _NO_POSITIONS,
            int(resolved_options(SPEC, job.variant)["parallel"]),
            f"{address.shown(client.model)} in a server",
            _notes(client, address.url),
        )


def ask_identity(job: Job, send: Listener) -> str:
    """What identifies the model behind a served variant: what the server says of it, and answers.

    The URL is no part of it: another model behind the same one is another identity.
    """
    with open_server(job, send) as model:
        prompts = [with_bos(model.tokenizer, text) for text in _QUESTIONS]
        return content_hash([model.client.description(), *map(model.client.answer_print, prompts)])


def _opened(job: Job, address: Address, tokenizer: Any) -> Client:
    """A client that knows its model's name and how the server takes prompts."""

    def text_of(tokens: object) -> str:
        text: str = tokenizer.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    asked = str(resolved_options(SPEC, job.variant)["model"])
    client = Client(address, asked, text_of, tokenizer.bos_token_id)
    names = client.served_models()
    if not client.model:
        if not names:
            raise ServerError(f"{address.url} lists no model: name it with model=NAME")
        client.model = names[0]
    client.open(with_bos(tokenizer, _SAMPLE))
    return client


def with_bos(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text`, behind BOS where the tokenizer has one."""
    tokens: list[int] = tokenizer.encode(text)
    bos = tokenizer.bos_token_id
    return tokens if bos is None or tokens[:1] == [bos] else [bos, *tokens]


def _notes(client: Client, url: str) -> tuple[str, ...]:
    form = "token ids" if client.takes_tokens else "text, which it tokenises itself"
    return (
        f"served at {url}, prompts sent as {form}; size and memory are not known here, divergence"
        " from the baseline is not measured as a server gives no distributions; speed: evalkit"
        " bench",
    )
