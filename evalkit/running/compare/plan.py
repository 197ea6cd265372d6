"""From options to work: which variants of which model on which suite, and what each run is called.

Nothing is loaded here and torch is not imported; a comparison that is already in the store is
answered without it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.analysis.decompose import PASSES
from evalkit.analysis.verdicts import Margin, parse_margin
from evalkit.backends import needs_memory, parse_variant, spec_of
from evalkit.declaration import command_line, words
from evalkit.errors import UsageError, did_you_mean
from evalkit.metrics import Topic, probe_metrics, token_metrics
from evalkit.models.checkpoint import Checkpoint
from evalkit.options import CompareOptions
from evalkit.progress import Event, Listener, ignore
from evalkit.records import Environment, Model, Run, Suite, Variant
from evalkit.running.build_job import build_job, on_this_machine, resolve_subject
from evalkit.running.compare.formats import with_formats, with_seeds
from evalkit.running.compare.generating import generating_tasks
from evalkit.running.compare.stopping_plan import stopping_margin, stopping_part
from evalkit.running.compare.suite import (
    EVERYTHING,
    check_random,
    choose_suite,
    data_paths,
    wanted_parts,
)
from evalkit.running.defaults import assign_servers, choose_variants, offloading
from evalkit.running.job import (
    DECOMPOSED_VERSION,
    NOISE_VERSION,
    PROBES,
    TASK_VERSION,
    Job,
    Part,
    Subject,
)
from evalkit.running.keys import probes_key, task_key, texts_key, windows_key
from evalkit.running.memory_check import with_memory_check
from evalkit.running.remaining import shortened_speed
from evalkit.store.mirror import is_url
from evalkit.store.store import Store


@dataclass(frozen=True)
class ComparePlan:
    """Jobs in the order of the rows, the baseline first; a job that cannot run says why.

    `generates` says of each task whether text is generated for it, `wanted` what is measured, and
    `only` what alone was asked for in the user's words.
    """

    store: Path
    model: Model
    checkpoint: Checkpoint
    suite: Suite
    margin: Margin
    environment: Environment
    jobs: tuple[Job, ...]
    notes: tuple[str, ...]
    command: str
    generates: Mapping[str, bool]
    wanted: frozenset[str] = EVERYTHING
    only: tuple[str, ...] = ()
    ray: str = ""
    text_bytes: int = 0

    @property
    def context(self) -> int:
        """Tokens of the longest sequence that texts or speed ask for; tasks may ask for more."""
        return self.suite.context or self.jobs[0].settings.protocol.prompt


def make_plan(
    variants: Sequence[str],
    options: CompareOptions,
    *,
    folder: Path | None = None,
    send: Listener = ignore,
) -> ComparePlan:
    """Resolve every word; raises UsageError, DataError or ModelError in one line.

    `folder` is the local copy of the store where `out` of the options is a URL.
    """
    chosen = _baseline_first(variants, options)
    margin = parse_margin(options["margin"])
    serve = dict(zip(chosen, assign_servers(chosen, words(options["serve"])), strict=True))
    check_random(options)
    # `out` may be a URL, whose local copy is the store.
    local: CompareOptions = options if folder is None else {**options, "out": folder}
    subject = resolve_subject(
        local,
        options["weights"],
        send,
        card_holds_model=not options["ray"] and any(map(needs_memory, chosen)),
    )
    subject = _with_settings(subject, options)
    left_out: tuple[str, ...] = ()
    if options["formats"]:
        chosen, left_out = with_formats(chosen, subject)
    chosen = with_seeds(chosen, options["calibration_seeds"])
    wanted = wanted_parts(options)
    suite, sources, texts = choose_suite(options, subject.checkpoint, wanted)
    notes = (*left_out, *(note for text in texts for note in text.notes))
    for note in notes:
        send(Event("evalkit", "", message=note))
    generates = generating_tasks(subject, suite.tasks, send)
    jobs = [
        build_job(
            subject,
            variant,
            sources=sources,
            limit=options["limit"],
            serve=serve.get(variant, ""),
            send=send,
        )
        for variant in chosen
    ]
    context = suite.context or subject.settings.protocol.prompt
    jobs = with_memory_check(_with_parts(jobs, suite, generates, wanted), context)
    _check_something(jobs, options)
    mirror = str(options["out"]) if is_url(options["out"]) else ""
    return ComparePlan(
        store=subject.store,
        model=subject.model,
        checkpoint=subject.checkpoint,
        suite=suite,
        margin=margin,
        environment=subject.environment,
        jobs=tuple(dataclasses.replace(job, mirror=mirror) for job in jobs),
        notes=(*subject.notes, *notes, *(note for job in jobs for note in job.notes)),
        command=command_line("compare", variants, CompareOptions, {**options, "fresh": False}),
        generates=generates,
        wanted=wanted,
        only=words(options["only"], "comma"),
        ray=options["ray"],
        text_bytes=sum(len(d.encode()) for t in texts for d in t.documents),
    )


def with_batch_tokens(plan: ComparePlan, index: int, batch_tokens: int) -> ComparePlan:
    """The plan with another batch size for one of its jobs, and the keys that then are others."""
    jobs = list(plan.jobs)
    settings = dataclasses.replace(jobs[index].settings, batch_tokens=batch_tokens)
    jobs[index] = dataclasses.replace(jobs[index], settings=settings)
    jobs = _with_parts(jobs, plan.suite, plan.generates, plan.wanted)
    return dataclasses.replace(plan, jobs=tuple(jobs))


def follow_baseline(plan: ComparePlan, store: Store) -> ComparePlan:
    """The plan in which speed is measured with the prompts that the baseline could be given."""
    baseline, *others = plan.jobs
    speeds = [shortened_speed(store, part) for part in baseline.parts if part.kind == "speed"]
    if not any(speeds):
        return plan
    jobs = [baseline]
    for job in others:
        protocol = dataclasses.replace(job.settings.protocol, speed=speeds[0])
        settings = dataclasses.replace(job.settings, protocol=protocol)
        jobs.append(dataclasses.replace(job, settings=settings))
    jobs = _with_parts(jobs, plan.suite, plan.generates, plan.wanted)
    return dataclasses.replace(plan, jobs=tuple(jobs))


def with_other_method(plan: ComparePlan, index: int, variant: Variant, why: str) -> ComparePlan:
    """The plan with another method, made while it is loaded, for the bare word of one job."""
    jobs = list(plan.jobs)
    note = f"{variant.label} is {variant.text} here: {why}"
    gone = set(jobs[index].notes)
    changed = dataclasses.replace(jobs[index], variant=variant, calibration="", notes=(note,))
    jobs[index] = on_this_machine(changed)
    notes = (*(one for one in plan.notes if one not in gone), note)
    jobs = _with_parts(jobs, plan.suite, plan.generates, plan.wanted)
    return dataclasses.replace(plan, jobs=tuple(jobs), notes=notes)


def _check_something(jobs: Sequence[Job], options: CompareOptions) -> None:
    """Raise UsageError where `--only` leaves nothing to measure of a variant."""
    empty = next((job.variant.label for job in jobs if not job.parts), None)
    only = words(options["only"], "comma")
    if only and empty is not None:
        raise UsageError(
            f"--only {','.join(only)} leaves nothing to measure of {empty}: text needs --text or a"
            " suite with texts, tasks need --tasks, speed and memory a variant that is loaded here"
        )


def _with_settings(subject: Subject, options: CompareOptions) -> Subject:
    data, include_path = data_paths(options)
    settings = dataclasses.replace(
        subject.settings,
        batch_tokens=options["batch_tokens"] or subject.settings.batch_tokens,
        protocol=dataclasses.replace(subject.settings.protocol, seconds=options["speed_seconds"]),
        allow_overlap=options["allow_overlap"],
        allow_code=options["allow_code"],
        until_decided=stopping_margin(options),
        decompose=options["decompose"],
        data=data,
        include_path=include_path,
    )
    return dataclasses.replace(subject, settings=settings)


def _baseline_first(asked: Sequence[str], options: CompareOptions) -> list[Variant]:
    variants = choose_variants(asked, offload=options["offload"])
    if options["baseline"] is None:
        return variants
    wanted = parse_variant(options["baseline"])
    if options["offload"]:
        wanted = offloading(wanted)
    found = next((v for v in variants if v.text == wanted.text), None)
    if found is None:
        hint = did_you_mean(options["baseline"], asked)
        raise UsageError(
            f"--baseline {options['baseline']!r} is not one of {', '.join(asked)}{hint}"
        )
    variants.remove(found)
    return [found, *variants]


def _with_parts(
    jobs: Sequence[Job], suite: Suite, generates: Mapping[str, bool], wanted: frozenset[str]
) -> list[Job]:
    """The jobs with their parts, all with the first one's reference."""
    baseline = jobs[0]
    texts = next((part for part in suite.parts() if part.texts), None)
    windows = windows_key(baseline, texts) if texts is not None else ""
    reference = texts_key(baseline, texts) if texts is not None else ""
    found: list[Job] = []
    for index, job in enumerate(jobs):
        served = spec_of(job.variant).served or spec_of(baseline.variant).served
        shared = dataclasses.replace(
            job,
            windows=windows,
            reference=reference,
            is_baseline=index == 0,
            divergence=not served,
        )
        parts = _parts(shared, suite, generates, wanted)
        if index:
            parts = tuple(stopping_part(shared, part, found[0].parts) for part in parts)
        found.append(dataclasses.replace(shared, parts=parts))
    return found


def _parts(
    job: Job, suite: Suite, generates: Mapping[str, bool], wanted: frozenset[str]
) -> tuple[Part, ...]:
    # Of a server they are not known here.
    topics = () if spec_of(job.variant).served else PROBES
    parts = [_probe(job, topic) for topic in topics if topic in wanted]
    for piece in suite.parts():
        if piece.tasks:
            key = task_key(job, piece, generates=generates[piece.tasks[0].name])
            parts.append(Part("task", _run(job, key, piece), (("task", TASK_VERSION),)))
        else:
            parts.append(_texts(job, piece))
    return tuple(parts)


def _probe(job: Job, topic: Topic) -> Part:
    """Memory (and size), or speed."""
    suite = Suite(name=topic, convention="", context=0, bos="")
    needed = tuple((spec.name, spec.version) for spec in probe_metrics(topic))
    return Part(topic, _run(job, probes_key(job, topic), suite), needed)


def _texts(job: Job, piece: Suite) -> Part:
    metrics = token_metrics(
        piece.convention, is_baseline=job.is_baseline, divergence=job.divergence
    )
    needed = [(metric.name, metric.version) for metric in metrics]
    if job.is_baseline:
        needed.append(("noise", NOISE_VERSION))
    elif job.settings.decompose and job.divergence:
        needed += [(name, DECOMPOSED_VERSION) for name in PASSES]
    baseline = "" if job.is_baseline else job.reference
    return Part("texts", _run(job, texts_key(job, piece), piece), tuple(needed), baseline)


def _run(job: Job, key: str, piece: Suite) -> Run:
    return Run(
        id=key,
        model=job.model,
        variant=job.variant,
        suite=piece,
        status="running",
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
