"""`--sensitivity-text self`: text that the model itself writes, where there is no third one.

It is written once and kept in the store, as a file like any other text.
"""

from __future__ import annotations

import json
from pathlib import Path

from evalkit.progress import Listener
from evalkit.records import content_hash
from evalkit.running.calibration import SELF_LENGTH, SELF_VERSION
from evalkit.running.job import Job
from evalkit.running.process import run_child
from evalkit.store.files import make_directory, replacing

# Where all tokens of the text are asked for.
_TOKENS = 4096


def own_text_file(job: Job, seed: int, tokens: int, send: Listener) -> Path:
    """A file of about `tokens` tokens (0: 4,096) that the model of `job` writes by `seed`."""
    samples = max(1, round((tokens or _TOKENS) / SELF_LENGTH))
    identity = job.checkpoint.identity
    name = content_hash([identity.weights, identity.tokenizer, SELF_VERSION, seed, samples])
    file = make_directory(job.store / "own-text") / f"{name}.jsonl"
    if not file.exists():
        run_child(_write, (job, file, samples, seed), send, gpu=job.visible)
    return file


def _write(order: tuple[Job, Path, int, int], send: Listener) -> None:
    """In the child: a document a sample, without the token that each begins with."""
    from evalkit.running.calibration_samples import written_samples
    from evalkit.running.session import loaded, open_variant

    job, file, samples, seed = order
    with open_variant(job, send) as session:
        one = loaded(session)
        made = written_samples(
            one.scoring_model, one.tokenizer, samples, SELF_LENGTH, seed, job.variant, send
        )
        documents = [one.tokenizer.decode(sample[1:]) for sample in made]
    lines = [json.dumps({"text": document}) for document in documents]
    with replacing(file) as half:
        half.write_text("\n".join(lines) + "\n", encoding="utf-8")
