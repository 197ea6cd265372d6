"""Speculative decoding of one variant by others: measured in one process, predicted beside it."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evalkit.analysis.speculation import expected_speedup, expected_tokens_per_pass
from evalkit.analysis.sweep import ratio
from evalkit.backends import spec_of
from evalkit.errors import EvalkitError, InterruptedWorkError, UsageError, VariantError
from evalkit.models.loading import Loaded
from evalkit.progress import Event, Listener
from evalkit.records import Run, content_hash
from evalkit.records.bench import Speculation
from evalkit.results.load_measured import windows_table
from evalkit.running.compare.plan import ComparePlan, Request, make_plan
from evalkit.running.job import Part, VariantJob
from evalkit.running.process import run_child, stop_if_asked
from evalkit.store.files import read_parquet
from evalkit.store.store import Store

PROMPT_LOOKUP = "prompt-lookup"
SHORTEST_PROMPT = 4


@dataclass(frozen=True)
class SpeculateRequest:
    """The words of `speculate`: the first variant is the target, the others draft for it.

    `prompts` texts of the suite are cut to `prompt` tokens and continued by `generate`.
    """

    compared: Request
    draft_tokens: int = 4
    prompt_lookup: bool = False
    prompts: int = 8
    prompt: int = 128
    generate: int = 64


@dataclass(frozen=True)
class _Work:
    """What the child process measures."""

    target: VariantJob
    drafts: tuple[VariantJob, ...]
    part: Part
    request: SpeculateRequest


def speculate(request: SpeculateRequest, listener: Listener) -> tuple[Speculation, ...]:
    """Measure every draft that can be had, and store the result; failures are told one by one.

    Raises UsageError for wrong words and VariantError where the target cannot be run or no draft
    is left.
    """
    if request.draft_tokens < 1 or request.prompts < 1 or request.generate < 2:
        raise UsageError("--draft-tokens and --prompts are at least 1, --generate at least 2")
    plan = make_plan(request.compared)
    target, *others = plan.jobs
    if not others and not request.prompt_lookup:
        raise UsageError("no draft given: name a second variant, such as int4, or --prompt-lookup")
    part = next((part for part in target.parts if part.kind == "texts"), None)
    if part is None:
        raise UsageError("the suite has no text to take prompts from: give --text FILE")
    if refusal := plan.refused.get(target.variant.text):
        raise VariantError(refusal)
    _make(target, listener)
    drafts = tuple(job for job in others if _usable(plan, job, listener))
    work = _Work(target, drafts, part, request)
    found: list[Speculation] = run_child(_measure, work, listener)
    if not found:
        raise VariantError("no draft could be measured: the lines above say why")
    store = Store(plan.store)
    store.save_speculation(tuple(found), content_hash([plan.model.identity, repr(request)]))
    return tuple(found)


def _make(job: VariantJob, listener: Listener) -> None:
    if spec_of(job.variant).served:
        raise VariantError(
            f"{job.variant.label} runs in a server: speculative decoding is set up there, and "
            "`evalkit bench` measures what it brings"
        )
    if spec_of(job.variant).quantizes:
        run_child(_quantize, job, listener)


def _usable(plan: ComparePlan, job: VariantJob, listener: Listener) -> bool:
    """Whether the draft can be loaded, making it if need be; else the reason is told."""
    try:
        if refusal := plan.refused.get(job.variant.text):
            raise VariantError(refusal)
        _make(job, listener)
    except InterruptedWorkError:
        raise
    except EvalkitError as error:
        listener(Event(job.variant.label, "", message=str(error)))
        return False
    return True


def _quantize(job: VariantJob, send: Listener) -> None:
    from evalkit.running.quantize import quantize_variant

    quantize_variant(job, send)


def _measure(work: _Work, send: Listener) -> list[Speculation]:
    from evalkit.inference.speculative import PromptLookup
    from evalkit.inference.timing import generation_lengths
    from evalkit.running.compare.texts import load_windows

    store, request = Store(work.target.store), work.request
    target = _load(store, work.target, send)
    prompt, generate = generation_lengths(target.model, request.prompt, request.generate)
    windows = load_windows(store, work.target, work.part)
    long = [i for i in range(len(windows)) if windows.lengths[i] >= SHORTEST_PROMPT]
    chosen = long[:: max(1, len(long) // request.prompts)][: request.prompts]
    prompts = [windows.window(i)[:prompt].tolist() for i in chosen]
    session = _Session(target, prompts, generate, request.draft_tokens, work, send)
    found = []
    if request.prompt_lookup:
        found.append(session.measure(PROMPT_LOOKUP, PromptLookup(), None))
    for job in work.drafts:
        try:
            found.append(_by_model(session, store, job, send))
        except InterruptedWorkError:
            raise
        except EvalkitError as error:
            send(Event(job.variant.label, "", message=str(error)))
    return found


def _by_model(session: _Session, store: Store, job: VariantJob, send: Listener) -> Speculation:
    from evalkit.inference.speculative import ModelDraft

    draft = _load(store, job, send)
    measured = session.measure(job.variant.label, ModelDraft(draft.model), draft.model)
    return _predicted(store, session.work.target, job, measured)


def _load(store: Store, job: VariantJob, send: Listener) -> Loaded:
    from evalkit import plugins
    from evalkit.running.compare.worker import load_variant, prepare_source

    source, _ = prepare_source(store, job, send)
    getattr(plugins.load("backends", job.variant.backend), "prepare", lambda: None)()
    send(Event(job.variant.label, "loading"))
    return load_variant(job, source)


@dataclass
class _Session:
    """The loaded target and its prompts."""

    target: Loaded
    prompts: list[list[int]]
    generate: int
    draft_tokens: int
    work: _Work
    send: Listener

    def measure(self, name: str, draft: Any, model: Any) -> Speculation:
        """Each prompt decoded plainly and with `draft`, one right after the other."""
        pairs, alone = [], []
        self._decode(self.prompts[0], draft)
        for done, prompt in enumerate(self.prompts):
            stop_if_asked()
            self.send(Event(name, "speculating", done, len(self.prompts), "prompts"))
            pairs.append((self._decode(prompt), self._decode(prompt, draft)))
            if model is not None:
                alone.append(self._decode(prompt, model=model).seconds / pairs[-1][0].seconds)
        plain, drafted = ([pair[i] for pair in pairs] for i in (0, 1))
        seconds = [[one.seconds for one in side] for side in (plain, drafted)]
        # Behind the prompt's own pass, whose token both have for nothing.
        made = sum(len(one.tokens) - 1 for one in drafted)
        speedup = ratio(seconds[0], seconds[1])
        differing = [i for i, (a, b) in enumerate(pairs) if a.tokens != b.tokens]
        return Speculation(
            target=self.work.target.variant.label,
            draft=name,
            draft_tokens=self.draft_tokens,
            accepted=sum(one.kept for one in drafted) / max(1, sum(o.examined for o in drafted)),
            tokens_per_pass=made / sum(one.passes for one in drafted),
            speedup=sum(seconds[0]) / sum(seconds[1]) if speedup is None else speedup[0],
            speedup_low=None if speedup is None else speedup[1],
            speedup_high=None if speedup is None else speedup[2],
            lossless=not differing,
            tokens=sum(len(one.tokens) for one in drafted),
            prompts=len(self.prompts),
            prompt=max(len(prompt) for prompt in self.prompts),
            differing=len(differing),
            ties=self._ties(differing, draft),
            plain_tokens_per_second=made / sum(seconds[0]),
            draft_cost=statistics.median(alone) if alone else None,
            sampled_accepted=None if model is None else self._sampled(model),
        )

    def _decode(
        self, prompt: Sequence[int], draft: Any = None, model: Any = None, **more: Any
    ) -> Any:
        from evalkit.inference.speculative import decode

        return decode(
            model or self.target.model,
            prompt,
            self.generate,
            draft=draft,
            draft_tokens=self.draft_tokens if draft is not None else 0,
            **more,
        )

    def _ties(self, differing: Sequence[int], draft: Any) -> int:
        """How many prompts differ first where rounding decides.

        A pass over several tokens rounds otherwise than a pass over one. By how much is measured
        where both chose the same token: the change of its lead over the second best. A token that
        changed with a smaller change than the largest of these was a tie.
        """
        from evalkit.inference.speculative import first_difference

        gaps, noise = [], 0.0
        for index in differing:
            prompt = self.prompts[index]
            one = self._decode(prompt, margins=True)
            two = self._decode(prompt, draft, margins=True)
            at, gap, largest = first_difference(one, two)
            noise = max(noise, largest)
            gaps += [gap] if at is not None else []
        return sum(gap <= 2 * noise for gap in gaps)

    def _sampled(self, model: Any) -> float:
        import torch

        from evalkit.inference.speculative import sampled_acceptance

        generator = torch.Generator().manual_seed(self.work.target.seed)
        results = [
            sampled_acceptance(self.target.model, model, prompt, self.generate, generator)
            for prompt in self.prompts
        ]
        return sum(total for total, _ in results) / sum(count for _, count in results)


def _predicted(
    store: Store, target: VariantJob, draft: VariantJob, measured: Speculation
) -> Speculation:
    """`measured` with what the quality pass of the same two variants says, where there was one."""
    variation = quality_mean(store, target, draft, "total_variation")
    agreement = quality_mean(store, target, draft, "top1_agreement")
    if variation is None:
        return dataclasses.replace(measured, agreement=agreement)
    accepted, count = 1 - variation, measured.draft_tokens
    cost = measured.draft_cost
    return dataclasses.replace(
        measured,
        agreement=agreement,
        predicted_accepted=accepted,
        predicted_tokens_per_pass=expected_tokens_per_pass(accepted, count),
        predicted_speedup=None if cost is None else expected_speedup(accepted, count, cost),
    )


def quality_mean(store: Store, target: VariantJob, draft: VariantJob, metric: str) -> float | None:
    """Mean over all tokens of a divergence of `draft` from `target`, of the newest run with it."""
    for run in reversed(store.runs()):
        if run.model.identity != draft.model.identity or run.variant.text != draft.variant.text:
            continue
        for measurement in run.measurements:
            if measurement.metric == metric and measurement.table:
                baseline = store.load(measurement.baseline) if measurement.baseline else None
                if _is(baseline, target):
                    table = windows_table(store.root / measurement.table)
                    columns = read_parquet(table)
                    total = float(np.sum(columns[f"sum_{measurement.details['column']}"]))
                    return total / float(np.sum(columns["scored"]))
    return None


def _is(run: Run | None, job: VariantJob) -> bool:
    return run is not None and run.variant.text == job.variant.text
