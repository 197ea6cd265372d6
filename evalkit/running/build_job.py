"""Making jobs: the only place where a variant and the options of a command become one.

`resolve_subject` turns the options that every command shares into what is evaluated and where;
`build_job` makes the job of one variant of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from evalkit import plugins
from evalkit.backends import check, check_installed, libraries, settled, spec_of
from evalkit.errors import DataError, VariantError
from evalkit.models.resolve import resolve_config, resolve_model
from evalkit.options import LoadOptions
from evalkit.progress import Event, Listener, ignore
from evalkit.records import Environment, Model, Variant
from evalkit.running.calibration import (
    calibration_identity,
    calibration_seed,
    calibration_source,
    check_disjoint,
    choose_calibration,
)
from evalkit.running.defaults import choose_model
from evalkit.running.environment import SHARED_PACKAGES, environment, versions
from evalkit.running.gpus import gpu_of, resolve_device, unused_gpu
from evalkit.running.job import Job, Settings, Subject
from evalkit.running.process import run_child
from evalkit.running.readiness import refuse_fetching
from evalkit.store.store import Store
from evalkit.texts.documents import load_texts

# On a CPU activations of more tokens leave the cache: nothing is gained by larger batches.
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}


def resolve_subject(
    options: LoadOptions,
    weights: str = "checkpoint",
    send: Listener = ignore,
    *,
    card_holds_model: bool = True,
) -> Subject:
    """Resolve the model, its files, the device and the store.

    Which model was chosen, and what will be fetched, is sent before anything is. With `weights`
    "random" the configuration alone is needed, which takes no download. Without `card_holds_model`
    this machine's card need not have room for it, as where it is offloaded or runs elsewhere.
    Raises UsageError, ModelError or StoreError in one line.
    """
    device = resolve_device(options["device"])
    gpu = gpu_of(device)
    asked = options["model"]
    name, why = choose_model(
        None if asked is None else str(asked), device, offline=options["offline"], weights=weights
    )
    notes = tuple(filter(None, (why, unused_gpu(device))))
    for note in notes:
        send(Event("evalkit", "", message=note))
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
        refuse_fetching(
            name,
            gpu.word if gpu else "",
            store.root,
            offline=settings.offline,
            card_holds_model=card_holds_model,
        )
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
        device=device.partition(":")[0],
        store=store.root,
        environment=environment(device),
        settings=settings,
        seed=options["seed"],
        notes=notes,
        gpu=gpu.word if gpu else "",
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

    A bare word becomes the method that this model takes. What identifies its weights and its
    calibration is found out, for a served variant by asking its server. Where the variant cannot
    be made of this model the job's `refusal` says why.
    """
    job = Job(
        store=subject.store,
        model=subject.model,
        checkpoint=subject.checkpoint,
        variant=variant,
        device=subject.device,
        gpu=subject.gpu,
        environment=_relevant(subject.environment, variant),
        settings=subject.settings,
        seed=subject.seed,
        serve=serve,
        sources=tuple(sources),
        limit=limit,
    )
    try:
        job = _calibrated(_settled(job))
        job = dataclasses.replace(job, content=_content(job, send))
    except (VariantError, DataError) as error:
        job = dataclasses.replace(job, refusal=str(error))
    for note in job.notes:
        send(Event(job.variant.label, "", message=note))
    return job


def refused(job: Job, check: Callable[[Variant], None]) -> Job:
    """The job with what `check` raises for its variant as refusal, unless it is refused before."""
    try:
        check(job.variant)
    except VariantError as error:
        return dataclasses.replace(job, refusal=job.refusal or str(error))
    return job


def on_this_machine(job: Job) -> Job:
    """The job with the card and the environment of the machine where this is called."""
    gpu = gpu_of(job.device)
    return dataclasses.replace(
        job,
        gpu=gpu.word if gpu else "",
        environment=_relevant(environment(job.device), job.variant),
    )


def _relevant(known: Environment, variant: Variant) -> Environment:
    """The environment with the versions of the libraries that the variant runs on."""
    return dataclasses.replace(known, packages=versions((*SHARED_PACKAGES, *libraries(variant))))


def _settled(job: Job) -> Job:
    """The job of the method that the variant's words stand for; raises VariantError for none."""
    check_installed(spec_of(job.variant))
    variant, note = settled(job.checkpoint, job.variant)
    check(job.checkpoint, variant)
    known = _relevant(job.environment, variant)
    return dataclasses.replace(
        job, variant=variant, environment=known, notes=(note,) if note else ()
    )


def _content(job: Job, send: Listener) -> str:
    """What identifies weights that are not made from the model's; "" where they are."""
    if spec_of(job.variant).served:
        if job.model.weights == "random":
            raise VariantError(f"{job.variant.text} has the weights of its server, not random ones")
        # Not above: a plan imports no torch.
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


def _calibrated(job: Job) -> Job:
    """The job with the identity of its calibration samples; as it is where its method needs none.

    Where nobody chose a text and the usual one cannot be had, the model writes its own.
    """
    if not calibration_source(job.variant, job.checkpoint) or job.model.weights == "random":
        return job
    variant, text, note = choose_calibration(
        job.variant, job.checkpoint, offline=job.settings.offline
    )
    if text is not None and not job.settings.allow_overlap:
        evaluated = load_texts(job.sources, limit=job.limit, offline=job.settings.offline)
        check_disjoint(calibration_source(variant, job.checkpoint), text, evaluated)
    return dataclasses.replace(
        job,
        variant=variant,
        calibration=calibration_identity(
            text, calibration_seed(variant, job.seed), job.checkpoint.identity.tokenizer
        ),
        notes=(*job.notes, note) if note else job.notes,
    )
