"""A job: one variant, the parts of it still to be measured, and how. It pickles; nothing is open.

`resolve_subject` turns the options that every command shares into what is evaluated and where;
`build_job` makes the job of one variant of it, the only place where jobs are made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evalkit import plugins
from evalkit.backends import check_installed, libraries, spec_of
from evalkit.errors import DataError, VariantError
from evalkit.metrics import Protocol
from evalkit.models.resolve import Checkpoint, resolve_config, resolve_model
from evalkit.options import LoadOptions
from evalkit.progress import Listener, ignore
from evalkit.records import Environment, Model, Run, Variant
from evalkit.running.calibration import (
    calibration_identity,
    calibration_source,
    check_disjoint,
    load_calibration,
)
from evalkit.running.defaults import choose_model
from evalkit.running.environment import SHARED_PACKAGES, environment, resolve_device, versions
from evalkit.store.store import Store
from evalkit.texts.documents import load_texts

NOISE_VERSION = 1
TASK_VERSION = 1
# On a CPU activations of more tokens leave the cache: nothing is gained by larger batches.
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
Kind = Literal["probes", "texts", "task"]


@dataclass(frozen=True)
class Part:
    """One run to be made: speed and memory probes, all texts, or one task.

    `needed` lists the (metric, version) pairs that make it whole. `share` (number, of how many)
    is a share of the texts' windows that another process scores; the whole part puts all shares
    together, and scores what they lack.
    """

    kind: Kind
    run: Run
    needed: tuple[tuple[str, int], ...]
    baseline: str = ""
    share: tuple[int, int] | None = None

    def missing(self, stored: Run | None, machine: str | None) -> tuple[str, ...]:
        """Metrics of `needed` that `stored` lacks at their present version."""
        if stored is None:
            return tuple(metric for metric, _ in self.needed)
        found = {
            (m.metric, m.version)
            for m in stored.measurements
            if m.machine in (None, machine) and m.baseline in ("", self.baseline)
        }
        return tuple(metric for metric, version in self.needed if (metric, version) not in found)


@dataclass(frozen=True)
class Settings:
    """How the work is done. A backend names those that change its numbers (`run_settings`)."""

    batch_tokens: int
    protocol: Protocol = field(default_factory=Protocol)
    allow_pickle: bool = False
    trust_remote_code: bool = False
    allow_overlap: bool = False
    offline: bool = False
    data: Path | None = None
    include_path: Path | None = None
    allow_code: bool = False


@dataclass(frozen=True)
class Subject:
    """What is evaluated and where: the same for every variant of a command.

    `notes` are lines worth showing before anything starts, such as why this model was chosen.
    """

    model: Model
    checkpoint: Checkpoint
    device: str
    store: Path
    environment: Environment
    settings: Settings
    seed: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """Everything a worker needs to measure one variant.

    `content` identifies weights that are not made from the model's (a checkpoint's own, a
    server's), `calibration` the samples a method is calibrated on, `refusal` says why the variant
    cannot be run. `sources` are the text files or datasets of the suite, `windows` the key of
    their tokenised form, `reference` that of the baseline's hidden states; `is_baseline` makes the
    reference. `divergence` is False where this variant or the baseline gives no distributions;
    `serve` is the command that starts its server. `mirror` is the URL of which `store` is the copy
    of the machine that made the plan.
    """

    store: Path
    model: Model
    checkpoint: Checkpoint
    variant: Variant
    device: str
    environment: Environment
    settings: Settings
    seed: int = 0
    content: str = ""
    calibration: str = ""
    refusal: str = ""
    serve: str = ""
    sources: tuple[str, ...] = ()
    limit: int | None = None
    parts: tuple[Part, ...] = ()
    windows: str = ""
    reference: str = ""
    is_baseline: bool = False
    divergence: bool = True
    mirror: str = ""


def resolve_subject(options: LoadOptions, weights: str = "checkpoint") -> Subject:
    """Resolve the model, its files, the device and the store.

    With `weights` "random" the configuration alone is needed, which takes no download. Raises
    UsageError, ModelError or StoreError in one line.
    """
    device = resolve_device(options["device"])
    asked = options["model"]
    name, why = choose_model(None if asked is None else str(asked), device)
    store = Store(options["out"]).prepare()
    settings = Settings(
        BATCH_TOKENS[device.partition(":")[0]],
        offline=options["offline"],
        allow_pickle=options["allow_pickle"],
        trust_remote_code=options["trust_remote_code"],
    )
    if weights == "random":
        checkpoint = resolve_config(name, offline=settings.offline)
    else:
        checkpoint = resolve_model(
            name,
            offline=settings.offline,
            allow_pickle=settings.allow_pickle,
            trust_remote_code=settings.trust_remote_code,
            hash_cache=store.root / "hashes.json",
        )
    return Subject(
        model=Model(
            name, checkpoint.identity.weights, architecture=checkpoint.architecture, weights=weights
        ),
        checkpoint=checkpoint,
        device=device,
        store=store.root,
        environment=environment(device),
        settings=settings,
        seed=options["seed"],
        notes=(why,) if why else (),
    )


def build_job(
    subject: Subject,
    variant: Variant,
    *,
    sources: Sequence[str] = (),
    limit: int | None = None,
    serve: str = "",
    send: Listener = ignore,
) -> Job:
    """The job of `variant`, without parts.

    What identifies its weights and its calibration is found out, for a served variant by asking
    its server. Where the variant cannot be made of this model the job's `refusal` says why.
    """
    job = Job(
        store=subject.store,
        model=subject.model,
        checkpoint=subject.checkpoint,
        variant=variant,
        device=subject.device,
        environment=_relevant(subject.environment, variant),
        settings=subject.settings,
        seed=subject.seed,
        serve=serve,
        sources=tuple(sources),
        limit=limit,
    )
    try:
        check_installed(spec_of(variant))
        plugins.load("backends", variant.backend).check(job.checkpoint, variant)
        content = _content(job, send)
        return dataclasses.replace(job, content=content, calibration=_calibration(job))
    except (VariantError, DataError) as error:
        return dataclasses.replace(job, refusal=str(error))


def _relevant(known: Environment, variant: Variant) -> Environment:
    """The environment with the versions of the libraries that the variant runs on."""
    return dataclasses.replace(known, packages=versions((*SHARED_PACKAGES, *libraries(variant))))


def _content(job: Job, send: Listener) -> str:
    """What identifies weights that are not made from the model's; "" where they are."""
    if spec_of(job.variant).served:
        if job.model.weights == "random":
            raise VariantError(f"{job.variant.text} has the weights of its server, not random ones")
        from evalkit.running.process import run_child
        from evalkit.running.served import ask_identity

        identity: str = run_child(ask_identity, job, send)
        return identity
    backend = plugins.load("backends", job.variant.backend)
    if not hasattr(backend, "content"):
        return ""
    found: str = backend.content(
        job.variant,
        offline=job.settings.offline,
        allow_pickle=job.settings.allow_pickle,
        trust_remote_code=job.settings.trust_remote_code,
        hash_cache=job.store / "hashes.json",
    )
    return found


def _calibration(job: Job) -> str:
    """Identity of the calibration samples; "" for a method that needs none."""
    source = calibration_source(job.variant, job.checkpoint)
    if not source or job.model.weights == "random":
        return ""
    text = load_calibration(source, job.variant, offline=job.settings.offline)
    if not job.settings.allow_overlap:
        evaluated = load_texts(job.sources, limit=job.limit, offline=job.settings.offline)
        check_disjoint(source, text, evaluated)
    return calibration_identity(text, job.seed, job.checkpoint.identity.tokenizer)
