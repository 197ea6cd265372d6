"""From options to work: what a bench measures of which variants, and what it is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.backends import needs_memory, refuse_timing
from evalkit.declaration import command_line, declared, words
from evalkit.errors import UsageError, unknown
from evalkit.models.checkpoint import Checkpoint
from evalkit.options import BenchOptions
from evalkit.progress import Listener, ignore
from evalkit.records import Model, content_hash
from evalkit.running.build_job import build_job, refused, resolve_subject
from evalkit.running.defaults import assign_servers, choose_variants
from evalkit.running.job import Job
from evalkit.running.keys import bench_key
from evalkit.running.memory_check import with_memory_check

VERSION = 3
AUTO = "auto"
ENGINES = ("eager", "graph", "compile")
PROMPT, GENERATE = 512, 128


@dataclass(frozen=True)
class BenchPlan:
    """What is measured: a job a variant, and the options behind it.

    `batches` is None for a sweep that doubles until throughput stops growing; `options` hold the
    lengths of prompt and generation as they are measured.
    """

    options: BenchOptions
    command: str
    model: Model
    checkpoint: Checkpoint
    jobs: tuple[Job, ...]
    batches: tuple[int, ...] | None
    contexts: tuple[int, ...]
    notes: tuple[str, ...]
    id: str


def make_bench_plan(
    asked: Sequence[str], options: BenchOptions, send: Listener = ignore
) -> BenchPlan:
    """Resolve every word; raises UsageError or ModelError in one line."""
    variants = choose_variants(asked, offload=options["offload"])
    serve = assign_servers(variants, words(options["serve"]))
    subject = resolve_subject(
        options,
        options["weights"],
        send,
        card_holds_model=any(map(needs_memory, variants)),
    )
    engine_names(options["engine"], subject.device)
    measured = _with_lengths(options, subject.checkpoint)
    batches = _numbers(options["batch_sizes"])
    jobs = [
        refused(build_job(subject, variant, serve=command, send=send), refuse_timing)
        for variant, command in zip(variants, serve, strict=True)
    ]
    length = measured["prompt"] + measured["generate"]
    jobs = with_memory_check(jobs, length, min(batches or (1,)))
    return BenchPlan(
        options=measured,
        command=command_line("bench", asked, BenchOptions, {**options, "fresh": False}),
        model=subject.model,
        checkpoint=subject.checkpoint,
        jobs=tuple(jobs),
        batches=batches,
        contexts=_further(options["contexts"], measured["prompt"]),
        notes=(*subject.notes, *(note for job in jobs for note in job.notes)),
        id=_bench_id(measured, jobs),
    )


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


def _bench_id(options: BenchOptions, jobs: Sequence[Job]) -> str:
    """A hash of the protocol and of what is measured; options that change no number are left out.

    The model is known by its content.
    """
    fields = declared(BenchOptions).values()
    protocol = {f.name: options[f.name] for f in fields if not f.option.neutral}  # type: ignore[literal-required]
    protocol.pop("model")
    return content_hash([VERSION, protocol, [bench_key(job) for job in jobs]])


def _further(contexts: object, prompt: int) -> tuple[int, ...]:
    """The contexts that are no length of the prompt's own points, each once."""
    return tuple(one for one in dict.fromkeys(_numbers(contexts) or ()) if one != prompt)


def _numbers(value: object) -> tuple[int, ...] | None:
    """A list of numbers as its declaration has read it; None for the word auto."""
    return tuple(value) if isinstance(value, tuple) else None


def _with_lengths(options: BenchOptions, checkpoint: Checkpoint) -> BenchOptions:
    """Prompt and generation resolved; raises UsageError for more than the model's positions."""
    limit = checkpoint.positions
    generate = options["generate"] or min(GENERATE, max(1, limit // 4) if limit else GENERATE)
    prompt = options["prompt"] or min(PROMPT, limit - generate if limit else PROMPT)
    further = _numbers(options["contexts"]) or ()
    asked = [("prompt", prompt), *(("contexts", context) for context in further)]
    for option, context in asked:
        if context < 1 or (limit and context + generate > limit):
            raise UsageError(
                f"--{option} {context} with --generate {generate} is beyond the model's"
                f" {limit} positions: give from 1 to {max(1, limit - generate)}"
            )
    return {**options, "prompt": prompt, "generate": generate}
