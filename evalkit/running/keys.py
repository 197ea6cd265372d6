"""The keys of results: hashes of everything that can change a number, and of nothing else.

No path and no name is part of a key. Each part of a comparison takes only what matters to it: a
changed chat template measures chats anew and nothing else.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from evalkit.backends import libraries, missing_tools, run_settings, spec_of
from evalkit.metrics import Topic
from evalkit.records import Suite, content_hash
from evalkit.running.job import Job

# What a speed depends on beside the machine and the backend's own libraries.
SPEED_PACKAGES = ("torch", "transformers")
# Of the windows as they are stored, without which no older file is read.
WINDOWS_VERSION = 2


def variant_key(job: Job) -> list[Any]:
    """What makes the variant: the method with its options, and what it was made of.

    Options that name a file are left out, since its content counts. On a card the kernel depends on
    what this machine can compile.
    """
    spec = spec_of(job.variant)
    known = spec.options_for(job.variant.precision)
    unidentified = {option.name for option in known if not option.identifies}
    made: list[Any] = [job.variant.precision, job.variant.backend]
    options = [one for one in job.variant.options if one[0] not in unidentified]
    if options or job.variant.checkpoint is None:
        made.append(options)
    if _device(job) == "cuda" and (missing := missing_tools(job.variant)):
        made.append(missing)
    seed = job.seed if job.model.weights == "random" else None
    return [job.model.identity, job.model.weights, seed, *made, job.content, job.calibration]


def machine_key(job: Job) -> list[Any]:
    """What a speed is tied to beside the machine: versions of the libraries that run."""
    names = (*SPEED_PACKAGES, *libraries(job.variant))
    return [[name, job.environment.packages.get(name)] for name in dict.fromkeys(names)]


def probes_key(job: Job, topic: Topic) -> str:
    """The key of memory (and size), which takes a prompt and no repetitions, or of speed."""
    protocol = job.settings.protocol
    asked = [protocol.prompt] if topic == "memory" else dataclasses.asdict(protocol)
    return content_hash([*variant_key(job), _device(job), topic, asked, machine_key(job)])


def texts_key(job: Job, texts: Suite) -> str:
    """The key of the pass over the texts."""
    identity = job.checkpoint.identity
    return content_hash(
        [*variant_key(job), _device(job), _settings(job), texts.id, identity.tokenizer]
    )


def windows_key(job: Job, texts: Suite) -> str:
    """The key of the tokenised windows, which all variants share."""
    return content_hash([WINDOWS_VERSION, job.checkpoint.identity.tokenizer, texts.id])


def task_key(job: Job, task: Suite, *, generates: bool) -> str:
    """The key of one task; settings of decoding matter where text is generated."""
    identity = job.checkpoint.identity
    parts = [identity.tokenizer]
    if task.tasks[0].chat:
        parts.append(identity.chat_template)
    if generates:
        parts.append(identity.generation)
    return content_hash([*variant_key(job), _device(job), _settings(job), task.id, parts])


def answers_key(job: Job, asked: str, *, templated: bool) -> str:
    """The key of a variant's answers to what the hash `asked` stands for."""
    identity = job.checkpoint.identity
    parts = [identity.tokenizer, identity.generation]
    if templated:
        parts.append(identity.chat_template)
    return content_hash([*variant_key(job), _device(job), _settings(job), asked, parts])


def stopped_key(whole: str) -> str:
    """The key of a task that stops when it is decided, from that of the whole one.

    The margin is no part of it: with another one the same items are asked, more or fewer of them.
    """
    return content_hash([whole, "until decided"])


def bench_key(job: Job) -> list[Any]:
    """What a bench of the variant depends on beside its own protocol."""
    return [variant_key(job), job.environment.machine, machine_key(job)]


def depends_on_batches(job: Job) -> bool:
    """Whether what is batched together changes the numbers of the variant."""
    return "batch_tokens" in run_settings(job.variant)


def _settings(job: Job) -> dict[str, Any]:
    """The run's settings that the backend says change its numbers."""
    return {name: getattr(job.settings, name) for name in run_settings(job.variant)}


def _device(job: Job) -> str:
    return job.device.partition(":")[0]
