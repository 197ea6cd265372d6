"""From words to work: what a bench measures of which variants, and what it is called."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.backends import parse_variant
from evalkit.errors import (
    EvalkitError,
    UsageError,
    unknown,
)
from evalkit.metrics import Protocol
from evalkit.models.resolve import Checkpoint
from evalkit.records import Model, content_hash, to_json
from evalkit.running.defaults import (
    BATCH_TOKENS,
    calibration_of,
    choose_checkpoint,
    choose_model,
    with_offload,
    with_servers,
)
from evalkit.running.environment import environment, resolve_device
from evalkit.running.job import Settings, VariantJob
from evalkit.running.memory_check import refusals
from evalkit.store.store import Store

VERSION = 3
AUTO = "auto"
ENGINES = ("eager", "graph", "compile")
PROMPT, GENERATE = 512, 128


@dataclass(frozen=True)
class BenchRequest:
    """The words of `evalkit bench`, as given on the command line or in a notebook.

    `prompt` and `generate` 0 are PROMPT and GENERATE, or less where the model's context is short.
    """

    variants: tuple[str, ...]
    model: str | None = None
    batch_sizes: str | tuple[int, ...] = AUTO
    prompt: int = 0
    generate: int = 0
    contexts: tuple[int, ...] = ()
    engine: str = AUTO
    rounds: int = 5
    repetitions: int = 3
    soak: float = 0.0
    offload: bool = False
    weights: str = "checkpoint"
    device: str = "auto"
    seed: int = 0
    out: Path | None = None
    offline: bool = False
    serve: tuple[str, ...] = ()
    fresh: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class BenchPlan:
    """What is measured: a job a variant, why variants are refused, and the words behind it."""

    request: BenchRequest
    command: str
    model: Model
    checkpoint: Checkpoint
    jobs: tuple[VariantJob, ...]
    refused: dict[str, str]
    batches: tuple[int, ...] | None
    notes: tuple[str, ...]
    id: str


def make_bench_plan(request: BenchRequest) -> BenchPlan:
    """Resolve every word; raises UsageError or ModelError in one line."""
    batches = _batches(request.batch_sizes)
    _check_numbers(request)
    variants = [parse_variant(text) for text in request.variants]
    if not variants:
        raise UsageError("no variant given: name at least one, for example fp16 int8 int4")
    if request.offload:
        variants = with_offload(variants)
    device = resolve_device(request.device)
    engine_names(request.engine, device)
    name, why = choose_model(request.model, device)
    store = Store(request.out).prepare()
    checkpoint = choose_checkpoint(request, name, store)
    asked, request = request, _with_lengths(request, checkpoint)
    template = VariantJob(
        store=store.root,
        model=Model(
            name, checkpoint.identity, architecture=checkpoint.architecture, weights=request.weights
        ),
        checkpoint=checkpoint,
        variant=variants[0],
        device=device,
        environment=environment(device),
        settings=Settings(
            BATCH_TOKENS[device.partition(":")[0]],
            Protocol(),
            allow_pickle=request.allow_pickle,
            trust_remote_code=request.trust_remote_code,
            offline=request.offline,
        ),
        parts=(),
        seed=request.seed,
    )
    length = request.prompt + request.generate
    jobs, refused = [], refusals(variants, checkpoint, device, length, min(batches or (1,)))
    for variant in variants:
        job = dataclasses.replace(template, variant=variant)
        try:
            job = dataclasses.replace(job, calibration=calibration_of(job))
        except EvalkitError as error:
            refused[variant.text] = str(error)
        jobs.append(job)
    jobs = with_servers(jobs, request.serve)
    words = dataclasses.replace(request, variants=(), out=None, fresh=False, soak=0.0)
    key = [VERSION, to_json(dataclasses.replace(words, model=None)), checkpoint.identity,
           [job.variant.text for job in jobs], template.environment.machine]  # fmt: skip
    return BenchPlan(
        request, command_of(asked), template.model, checkpoint, tuple(jobs), refused, batches,
        (why,) if why else (), content_hash(key),
    )  # fmt: skip


def engine_names(asked: str, device: str) -> tuple[str, ...]:
    """The engines to try for the word `asked`; raises UsageError for one that cannot run here.

    On a CPU torch.compile takes most of a minute for each batch size, so it is tried only when
    asked for by name.
    """
    if asked == AUTO:
        return ENGINES if device != "cpu" else ("eager",)
    if asked not in ENGINES:
        raise unknown("engine", asked, (*ENGINES, AUTO))
    if asked == "graph" and device == "cpu":
        raise UsageError("engine 'graph' needs CUDA: use eager or compile on the CPU")
    return (asked,)


def command_of(request: BenchRequest) -> str:
    """The command line that repeats `request`."""
    words = ["evalkit", "bench", *request.variants]
    for field in dataclasses.fields(BenchRequest)[1:]:
        value = getattr(request, field.name)
        if value == field.default or field.name == "fresh":
            continue
        option = f"--{field.name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif field.name == "serve":
            words += [word for command in value for word in (option, command)]
        elif isinstance(value, tuple):
            words += [option, ",".join(map(str, value))]
        else:
            words += [option, f"{value:g}s" if field.name == "soak" else str(value)]
    return shlex.join(words)


def _batches(asked: str | Sequence[int]) -> tuple[int, ...] | None:
    if asked == AUTO:
        return None
    words = asked.split(",") if isinstance(asked, str) else asked
    try:
        sizes = tuple(int(word) for word in words)
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise UsageError(f"--batch-sizes {asked!r}: write auto, or numbers from 1 such as 1,2,4,8")
    return tuple(dict.fromkeys(sizes))


def _check_numbers(request: BenchRequest) -> None:
    least = {"prompt": 0, "generate": 0, "rounds": 1, "repetitions": 1}
    for name, bound in least.items():
        if getattr(request, name) < bound:
            raise UsageError(f"--{name} {getattr(request, name)}: give at least 1")
    if request.soak < 0:
        raise UsageError(f"--soak {request.soak:g}: give a time such as 10m or 90s")


def _with_lengths(request: BenchRequest, checkpoint: Checkpoint) -> BenchRequest:
    """Prompt and generation resolved; raises UsageError for more than the model's positions."""
    limit = int(checkpoint.config.get("max_position_embeddings") or 0)
    generate = request.generate or min(GENERATE, max(1, limit // 4) if limit else GENERATE)
    prompt = request.prompt or min(PROMPT, limit - generate if limit else PROMPT)
    asked = [("prompt", prompt), *(("contexts", context) for context in request.contexts)]
    for option, context in asked:
        if context < 1 or (limit and context + generate > limit):
            raise UsageError(
                f"--{option} {context} with --generate {generate} is beyond the model's"
                f" {limit} positions: give from 1 to {max(1, limit - generate)}"
            )
    return dataclasses.replace(request, prompt=prompt, generate=generate)
