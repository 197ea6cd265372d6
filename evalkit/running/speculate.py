"""Speculative decoding of one variant by others: measured in one process, predicted beside it."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.analysis.speculation import expected_speedup, expected_tokens_per_pass
from evalkit.analysis.sweep import ratio
from evalkit.backends import refuse_timing, spec_of
from evalkit.declaration import declared, resolved
from evalkit.errors import EvalkitError, InterruptedWorkError, UsageError, VariantError
from evalkit.options import CompareOptions, SpeculateOptions
from evalkit.progress import Event, Listener
from evalkit.records import Run, content_hash
from evalkit.records.bench import Speculation
from evalkit.results.load_measured import windows_table
from evalkit.running.compare.plan import make_plan
from evalkit.running.job import Job, Part
from evalkit.running.keys import variant_key
from evalkit.running.process import run_child, stop_if_asked
from evalkit.running.quantize import make_checkpoint
from evalkit.store.files import read_parquet
from evalkit.store.store import Store

if TYPE_CHECKING:
    from evalkit.running.session import LoadedSession

PROMPT_LOOKUP = "prompt-lookup"
SHORTEST_PROMPT = 4


@dataclass(frozen=True)
class _Work:
    """What the child process measures."""

    target: Job
    drafts: tuple[Job, ...]
    part: Part
    options: SpeculateOptions


def speculate(
    asked: Sequence[str], options: SpeculateOptions, listener: Listener
) -> tuple[Speculation, ...]:
    """Measure every draft that can be had, and store the result; failures are told one by one.

    The first variant is the target, the others draft for it. Raises UsageError for wrong words and
    VariantError where the target cannot be run or no draft is left.
    """
    plan = make_plan(asked, _compared(options), send=listener)
    target, *others = plan.jobs
    if not others and not options["prompt_lookup"]:
        raise UsageError("no draft given: name a second variant, such as int4, or --prompt-lookup")
    part = next((part for part in target.parts if part.kind == "texts"), None)
    if part is None:
        raise UsageError("the suite has no text to take prompts from: give --text FILE")
    _make(target, listener)
    drafts = tuple(job for job in others if _usable(job, listener))
    work = _Work(target, drafts, part, options)
    found: list[Speculation] = run_child(_measure, work, listener, gpu=target.visible)
    if not found:
        raise VariantError("no draft could be measured: the lines above say why")
    key = content_hash([*(variant_key(job) for job in plan.jobs), part.run.suite.id, repr(options)])
    Store(plan.store).save_speculation(tuple(found), key)
    return tuple(found)


def _compared(options: SpeculateOptions) -> CompareOptions:
    """The options of a comparison of the same variants on the same texts."""
    shared = declared(CompareOptions).keys() & options.keys()
    return resolved(CompareOptions, {name: dict(options)[name] for name in shared})


def _make(job: Job, listener: Listener) -> None:
    """Make the variant's checkpoint if need be; raises VariantError where it cannot be loaded."""
    if job.refusal:
        raise VariantError(job.refusal)
    if spec_of(job.variant).served:
        raise VariantError(
            f"{job.variant.label} runs in a server: speculative decoding is set up there, and "
            "`evalkit bench` measures what it brings"
        )
    refuse_timing(job.variant)
    make_checkpoint(job, listener)


def _usable(job: Job, listener: Listener) -> bool:
    """Whether the draft can be loaded, making it if need be; else the reason is told."""
    try:
        _make(job, listener)
    except InterruptedWorkError:
        raise
    except EvalkitError as error:
        listener(Event(job.variant.label, "", message=str(error)))
        return False
    return True


def _measure(work: _Work, send: Listener) -> list[Speculation]:
    from evalkit.inference.speculative import PromptLookup
    from evalkit.inference.timing import generation_lengths
    from evalkit.running.compare.texts import load_windows
    from evalkit.running.session import loaded, open_variant

    options = work.options
    with open_variant(work.target, send) as opened:
        target = loaded(opened)
        prompt, generate = generation_lengths(target.model, options["prompt"], options["generate"])
        windows = load_windows(Store(work.target.store), work.target, work.part)
        long = [i for i in range(len(windows)) if windows.lengths[i] >= SHORTEST_PROMPT]
        chosen = long[:: max(1, len(long) // options["prompts"])][: options["prompts"]]
        prompts = [windows.window(i)[:prompt].tolist() for i in chosen]
        decoded = _Decoded(target, prompts, generate, options["draft_tokens"], work, send)
        found = []
        if options["prompt_lookup"]:
            found.append(decoded.measure(PROMPT_LOOKUP, PromptLookup(), None))
        for job in work.drafts:
            try:
                found.append(_by_model(decoded, job, send))
            except InterruptedWorkError:
                raise
            except EvalkitError as error:
                send(Event(job.variant.label, "", message=str(error)))
    return found


def _by_model(decoded: _Decoded, job: Job, send: Listener) -> Speculation:
    from evalkit.inference.speculative import ModelDraft
    from evalkit.running.session import loaded, open_variant

    with open_variant(job, send) as opened:
        model = loaded(opened).model
        measured = decoded.measure(job.variant.label, ModelDraft(model), model)
    return _predicted(Store(job.store), decoded.work.target, job, measured)


@dataclass
class _Decoded:
    """Prompts as the loaded target decodes them, with and without drafts."""

    target: LoadedSession
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


def _predicted(store: Store, target: Job, draft: Job, measured: Speculation) -> Speculation:
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


def quality_mean(store: Store, target: Job, draft: Job, metric: str) -> float | None:
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


def _is(run: Run | None, job: Job) -> bool:
    return run is not None and run.variant.text == job.variant.text
