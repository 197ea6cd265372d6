"""From words to work: which variants of which model on which suite, and what each run is called.

Nothing is loaded here and torch is not imported; a comparison that is already in the store is
answered without it.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.analysis.verdicts import Margin, parse_margin
from evalkit.backends import parse_variant, spec_of
from evalkit.errors import DataError, UsageError, VariantError, did_you_mean
from evalkit.metrics import Protocol, probe_metrics, token_metrics
from evalkit.models.resolve import Checkpoint
from evalkit.records import Model, Run, Suite, TaskSlice, TextSlice, Variant, content_hash
from evalkit.running.defaults import (
    BATCH_TOKENS,
    calibration_of,
    choose_checkpoint,
    choose_model,
    offloading,
    with_offload,
    with_servers,
)
from evalkit.running.environment import environment, resolve_device
from evalkit.running.job import NOISE_VERSION, TASK_VERSION, Part, Settings, VariantJob
from evalkit.running.memory_check import refusals
from evalkit.store.store import Store
from evalkit.tasks.files import task_files_hash
from evalkit.texts.documents import Text, load_texts
from evalkit.texts.presets import load_preset
from evalkit.texts.windows import default_context

OPTION_WORDS = {"chat": "--apply-chat-template", "system": "--system-instruction"}


@dataclass(frozen=True)
class Request:
    """The words of `compare`, as given on the command line or in a notebook."""

    variants: tuple[str, ...]
    model: str | None = None
    suite: str | None = None
    text: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    shots: int | None = None
    limit: int | None = None
    margin: str = "1pp"
    convention: str | None = None
    context: int | None = None
    baseline: str | None = None
    device: str = "auto"
    seed: int = 0
    data: Path | None = None
    include_path: Path | None = None
    allow_code: bool = False
    chat: bool = False
    system: str = ""
    offline: bool = False
    serve: tuple[str, ...] = ()
    weights: str = "checkpoint"
    out: Path | None = None
    mirror: str = ""
    ray: str = ""
    fresh: bool = False
    batch_tokens: int | None = None
    offload: bool = False
    allow_overlap: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class ComparePlan:
    """Jobs in the order of the rows, the baseline first; a refused variant has a message."""

    store: Path
    model: Model
    checkpoint: Checkpoint
    suite: Suite
    margin: Margin
    jobs: tuple[VariantJob, ...]
    refused: dict[str, str]
    notes: tuple[str, ...]
    command: str
    ray: str = ""
    text_bytes: int = 0


def make_plan(request: Request) -> ComparePlan:
    """Resolve every word of `request`; raises UsageError, DataError or ModelError in one line."""
    if request.data is None and os.environ.get("EVALKIT_DATA"):
        request = dataclasses.replace(request, data=Path(os.environ["EVALKIT_DATA"]))
    _check_numbers(request)
    variants = _baseline_first(request)
    margin = parse_margin(request.margin)
    device = resolve_device(request.device)
    name, why = choose_model(request.model, device)
    store = Store(request.out).prepare()
    checkpoint = choose_checkpoint(request, name, store)
    texts: Sequence[Text] = ()
    if request.weights == "random":
        suite = Suite("random weights", convention="", context=0, bos="")
        sources: tuple[str, ...] = ()
    else:
        suite, sources, texts = choose_suite(request, checkpoint)
    model = Model(
        name, checkpoint.identity, architecture=checkpoint.architecture, weights=request.weights
    )
    settings = Settings(
        batch_tokens=request.batch_tokens or BATCH_TOKENS[device.partition(":")[0]],
        protocol=Protocol(),
        allow_pickle=request.allow_pickle,
        trust_remote_code=request.trust_remote_code,
        allow_overlap=request.allow_overlap,
        offline=request.offline,
        data=request.data,
        include_path=request.include_path,
        allow_code=request.allow_code,
    )
    template = VariantJob(
        store=store.root,
        model=model,
        checkpoint=checkpoint,
        variant=variants[0],
        device=device,
        environment=environment(device),
        settings=settings,
        parts=(),
        sources=sources,
        limit=request.limit,
        seed=request.seed,
        mirror=request.mirror,
    )
    jobs, refused = _jobs(template, variants, suite)
    jobs = tuple(with_servers(jobs, request.serve))
    notes = (why,) if why else ()
    return ComparePlan(
        store.root,
        model,
        checkpoint,
        suite,
        margin,
        jobs,
        refused,
        notes,
        command_of(request),
        request.ray,
        # Only shares of the texts depend on their size.
        sum(len(d.encode()) for text in texts for d in text.documents) if request.ray else 0,
    )


def command_of(request: Request) -> str:
    """The command line that repeats `request`: its variants and what differs from the default."""
    words = ["evalkit", "compare", *request.variants]
    for field in dataclasses.fields(Request)[1:]:
        value = getattr(request, field.name)
        if value == field.default or field.name in ("fresh", "mirror"):
            continue
        if field.name == "out" and request.mirror:
            value = request.mirror
        option = OPTION_WORDS.get(field.name, f"--{field.name.replace('_', '-')}")
        if value is True:
            words.append(option)
        elif field.name == "tasks":
            words += [option, ",".join(value)]
        elif field.name == "serve":
            words += [word for command in value for word in (option, command)]
        else:
            words += [option, *(value if isinstance(value, tuple) else (str(value),))]
    return shlex.join(words)


def choose_suite(
    request: Request, checkpoint: Checkpoint
) -> tuple[Suite, tuple[str, ...], Sequence[Text]]:
    """The suite of texts and tasks asked for, else a preset; its texts and their sources."""
    name = request.suite
    if name is None and not request.text and not request.tasks:
        name = "demo" if checkpoint.name == "demo" else "quick"
    preset = load_preset(name) if name else None
    sources = request.text or (preset.texts if preset else ())
    tasks = tuple(TaskSlice(task) for task in request.tasks)
    if preset and not request.tasks:
        tasks = preset.tasks
    tasks = tuple(
        dataclasses.replace(
            task,
            shots=request.shots if request.shots is not None else task.shots,
            limit=request.limit if request.limit is not None else task.limit,
            chat=request.chat,
            system=request.system,
            data=task_files_hash(task.name, request.data, request.include_path),
        )
        for task in tasks
    )
    convention = request.convention or (preset.convention if preset else "lm-eval")
    limit = int(checkpoint.config.get("max_position_embeddings") or 0) or None
    context = default_context(convention)
    if preset and preset.context:
        context = preset.context
    context = min(request.context or context, limit or 10**9)
    if request.context and limit and request.context > limit:
        raise UsageError(
            f"--context {request.context} is beyond the model's {limit} positions: give at most"
            f" {limit}"
        )
    texts = load_texts(sources, limit=request.limit, offline=request.offline)
    suite = Suite(
        name=name or "custom",
        texts=tuple(TextSlice(t.name, t.sha256, len(t.documents)) for t in texts),
        convention=convention,
        context=context,
        tasks=tasks,
        limit=request.limit,
        seed=request.seed,
    )
    return suite, tuple(sources), texts


def _check_numbers(request: Request) -> None:
    """Raise UsageError for a number that means nothing."""
    for name, least in (("limit", 1), ("shots", 0), ("context", 1), ("batch_tokens", 1)):
        value = getattr(request, name)
        if value is not None and value < least:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} {value}: give at least {least}, or leave it out")


def _baseline_first(request: Request) -> tuple[Variant, ...]:
    if not request.variants:
        raise UsageError("no variant given: name at least one, for example fp16 int8 int4")
    variants = [parse_variant(text) for text in request.variants]
    if request.offload:
        variants = with_offload(variants)
    if request.baseline is None:
        return tuple(variants)
    wanted = parse_variant(request.baseline)
    if request.offload:
        wanted = offloading(wanted)
    found = next((v for v in variants if v.text == wanted.text), None)
    if found is None:
        hint = did_you_mean(request.baseline, request.variants)
        raise UsageError(
            f"--baseline {request.baseline!r} is not one of {', '.join(request.variants)}{hint}"
        )
    variants.remove(found)
    return (found, *variants)


def _jobs(
    template: VariantJob, variants: Sequence[Variant], suite: Suite
) -> tuple[tuple[VariantJob, ...], dict[str, str]]:
    """One job a variant, all with the baseline's reference, and why variants are refused."""
    texts = next((part for part in suite.parts() if part.texts), None)
    windows = reference = ""
    if texts is not None:
        windows = content_hash([template.checkpoint.identity, texts.id])
        reference = _run_id(template, variants[0], texts)
    template = dataclasses.replace(template, windows=windows, reference=reference)
    jobs, refused = [], {}
    for index, variant in enumerate(variants):
        served = spec_of(variant).served or spec_of(variants[0]).served
        job = dataclasses.replace(
            template, variant=variant, is_baseline=index == 0, divergence=not served
        )
        try:
            job = dataclasses.replace(job, calibration=calibration_of(job))
        except (VariantError, DataError) as error:
            refused[variant.text] = str(error)
        jobs.append(dataclasses.replace(job, parts=_parts(job, variant, suite, index == 0)))
    context = suite.context or template.settings.protocol.prompt
    full = refusals(variants, template.checkpoint, template.device, context)
    return tuple(jobs), full | refused


def _parts(
    template: VariantJob, variant: Variant, suite: Suite, is_baseline: bool
) -> tuple[Part, ...]:
    protocol = content_hash(dataclasses.asdict(template.settings.protocol))
    probes = Suite(name="probes", convention="", context=0, bos="", protocol=protocol)
    probe_needs = tuple((spec.name, spec.version) for spec in probe_metrics())
    parts = [Part("probes", _run(template, variant, probes), probe_needs)]
    if spec_of(variant).served:
        # Size and memory of a server are not known here; its speed is measured by `bench`.
        parts = []
    for piece in suite.parts():
        run = _run(template, variant, piece)
        if piece.tasks:
            parts.append(Part("task", run, (("task", TASK_VERSION),)))
            continue
        needed = [
            (metric.name, metric.version)
            for metric in token_metrics(
                piece.convention, is_baseline=is_baseline, divergence=template.divergence
            )
        ]
        if is_baseline:
            needed.append(("noise", NOISE_VERSION))
        baseline = "" if is_baseline else template.reference
        parts.append(Part("texts", run, tuple(needed), baseline))
    return tuple(parts)


def _run(template: VariantJob, variant: Variant, piece: Suite) -> Run:
    return Run(
        id=_run_id(template, variant, piece),
        model=template.model,
        variant=variant,
        suite=piece,
        status="running",
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _run_id(template: VariantJob, variant: Variant, piece: Suite) -> str:
    content = [template.model.identity, template.model.weights, variant.text, piece.id]
    return content_hash([*content, template.device.partition(":")[0], template.calibration])
