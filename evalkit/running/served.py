"""A served variant: its server started if need be, asked what it can do, and stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from evalkit.backends import resolved_options
from evalkit.backends.endpoint import SPEC, address_of
from evalkit.models.loading import load_tokenizer
from evalkit.progress import Event, Listener
from evalkit.records import content_hash
from evalkit.running.job import VariantJob
from evalkit.running.process import stop_if_asked
from evalkit.serving.client import Client
from evalkit.serving.http import ServerError
from evalkit.serving.process import served
from evalkit.store.store import Store
from evalkit.tasks.served_model import ServedModel

_NO_POSITIONS = 2048
# Text that every tokenizer takes apart, to see how the server reads prompts.
_SAMPLE = "The server reads this and goes on with one token."


@contextmanager
def open_served(store: Store, job: VariantJob, send: Listener) -> Iterator[ServedModel]:
    """The model of `job` in its server, which runs while the block does.

    Raises ServerError in one line where the server cannot be started, reached or used.
    """
    address = address_of(job.variant)
    log = store.root / "servers" / f"{content_hash([job.variant.text, job.serve])}.log"
    label = job.variant.label
    send(Event(label, "starting the server" if job.serve else "asking the server"))
    with served(job.serve, address, log, stop_if_asked):
        tokenizer = load_tokenizer(
            job.checkpoint.path, trust_remote_code=job.settings.trust_remote_code
        )

        def text_of(tokens: object) -> str:
            text: str = tokenizer.decode(
                tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            return text

        options = resolved_options(SPEC, job.variant)
        client = Client(address, str(options["model"]), text_of, tokenizer.bos_token_id)
        names = client.served_models()
        if not client.model:
            if not names:
                raise ServerError(f"{address.url} lists no model: name it with model=NAME")
            client.model = names[0]
        sample = tokenizer.encode(_SAMPLE)
        if tokenizer.bos_token_id is not None and sample[:1] != [tokenizer.bos_token_id]:
            sample = [tokenizer.bos_token_id, *sample]
        client.open(sample)
        yield ServedModel(
            client,
            tokenizer,
            int(job.checkpoint.config.get("max_position_embeddings") or _NO_POSITIONS),
            int(options["parallel"]),
            f"{address.shown(client.model)} in a server",
            _notes(client, address.url),
        )


def _notes(client: Client, url: str) -> tuple[str, ...]:
    form = "token ids" if client.takes_tokens else "text, which it tokenises itself"
    return (
        f"served at {url}, prompts sent as {form}; size and memory are not known here, divergence"
        " from the baseline is not measured as a server gives no distributions; speed: evalkit"
        " bench",
    )
