"""One variant answers all prompts, in a process of its own; answers are stored as they come."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.inference.decoding import Decoding
from evalkit.inference.generate import Generated
from evalkit.metrics import token_metrics
from evalkit.progress import Event, Listener
from evalkit.records import Measurement, Run
from evalkit.results.load_answers import read_answers_table
from evalkit.running.answers.plan import AGAIN, ALONG, ANSWERS, Asked
from evalkit.running.answers.prompt_tokens import answer_windows, prompt_tokens
from evalkit.running.compare.text_pass import Scoring
from evalkit.running.compare.worker import begin
from evalkit.running.job import ANSWERS_VERSION, Job
from evalkit.running.process import stop_if_asked
from evalkit.running.remaining import add, unfinished
from evalkit.running.session import LoadedSession, loaded, open_variant
from evalkit.store.claims import claim
from evalkit.store.parts import Parts
from evalkit.store.store import Store
from evalkit.tasks.lm_eval_requests import request_seeds
from evalkit.tasks.local_model import LocalLanguageModel

# The baseline answers so many prompts twice, spread over all of them.
NOISE_PROMPTS = 200
# Seconds of work that a kill may cost.
_WRITE_SECONDS = 5.0


@dataclass(frozen=True)
class Work:
    """What a child process is handed: a variant's job, and what it is asked."""

    job: Job
    asked: Asked


def measure_answers(work: Work, send: Listener) -> None:
    """Answer what the store lacks; raises EvalkitError in one line, with every answer stored."""
    job, store = work.job, Store(work.job.store)
    part = job.parts[0]

    def wait(who: str) -> None:
        send(Event(job.variant.label, "", message=f"waiting for {who}, which answers now"))

    with claim(store.claim_file(f"answers-{part.run.id}"), wait):
        if not unfinished(store, job, part):
            return
        with open_variant(job, send) as session:
            run = begin(store, part, session)
            answering = _Answering(store, work, loaded(session), run, send)
            for name in part.missing(run, job.environment.machine):
                run = add(store, run, [answering.measure(name)])
            if job.is_baseline:
                answering.record()
            notes = (*run.notes, *session.quality_notes, *answering.lm.notes)
            notes = tuple(dict.fromkeys(notes))
            store.save(dataclasses.replace(run, status="ok", message="", notes=notes))


class _Answering:
    """A loaded variant and the prompts that it answers."""

    def __init__(
        self, store: Store, work: Work, session: LoadedSession, run: Run, send: Listener
    ) -> None:
        self.store, self.asked, self.session, self.run = store, work.asked, session, run
        self.job, self.send = work.job, send
        lm = session.language_model(work.job.seed)
        assert isinstance(lm, LocalLanguageModel)
        self.lm = lm
        self.prompts = prompt_tokens(work.asked, lm)

    def measure(self, name: str) -> Measurement:
        """One of the measurements of a run of answers."""
        if name == ANSWERS:
            return self._measurement(name, self._answers(name, range(len(self.prompts))))
        if name == AGAIN:
            step = -(-len(self.prompts) // NOISE_PROMPTS)
            again = range(0, len(self.prompts), step)
            return self._measurement(name, self._answers(name, again, -(-len(again) // 2)))
        return self._measurement(ALONG, self._along(), self.job.parts[0].baseline)

    def record(self) -> None:
        """Keep the baseline's hidden states along its own answers, unless they are there."""
        scoring = self._scoring()
        table = scoring.table("self")
        record = scoring.record(table)
        assert record is not None
        scoring.score(table, token_metrics("", is_baseline=True), record=record)
        scoring.put_together(table)
        record.complete()

    def _measurement(self, name: str, table: Path, baseline: str = "") -> Measurement:
        return Measurement(
            metric=name,
            version=ANSWERS_VERSION,
            unit="",
            direction="none",
            table=str(table.relative_to(self.store.root)),
            convention=self.asked.words,
            baseline=baseline,
        )

    def _answers(self, name: str, indexes: Sequence[int], at_once: int | None = None) -> Path:
        """Answer the prompts at `indexes` that the table `name` lacks."""
        folder = self.store.raw(self.run.id)
        table = folder / f"{name}.parquet"
        if table.exists():
            return table
        kept = _Kept(Parts(folder / f"parts-{name}", "prompt"))
        left = [index for index in indexes if index not in kept.done]
        asked = [self.prompts[index] for index in left]
        stage = "answering" if name == ANSWERS else "answering again"
        progress = _Progress(self.job, stage, len(left), self.asked.generate, self.send)

        def generated(one: Generated) -> None:
            kept.add(left[one.index], one)
            progress.ended(len(one.tokens))

        seeds = request_seeds([(ids,) for ids in self.prompts], self.asked.seed)
        if left:
            try:
                self.lm.answer(
                    asked,
                    self._decoding(),
                    [seeds[index] for index in left],
                    generated,
                    progress.advance,
                    at_once=at_once,
                )
            finally:
                kept.write()
        kept.parts.merge(table)
        return table

    def _decoding(self) -> Decoding:
        """Up to the model's own end tokens; the tokenizer's where the model names none."""
        drawn = {"do_sample": True, "temperature": self.asked.temperature}
        options: dict[str, Any] = drawn if self.asked.temperature else {"do_sample": False}
        settings, tokenizer = self.lm.model.generation_config, self.lm.tokenizer
        if settings.eos_token_id is None and tokenizer.eos_token_id is not None:
            options["eos_token_id"] = tokenizer.eos_token_id
        return Decoding(self.asked.generate, (), options)

    def _scoring(self) -> Scoring:
        """The pass along the baseline's own answers."""
        baseline = self.job.parts[0].baseline or self.run.id
        said = read_answers_table(self.store.raw(baseline) / f"{ANSWERS}.parquet")
        answers = [said[index] for index in range(len(self.prompts))]
        windows = answer_windows(self.prompts, answers)
        return Scoring(self.store, self.run, windows, self.session, self.send)

    def _along(self) -> Path:
        scoring = self._scoring()
        table = scoring.table(self.job.parts[0].baseline)
        wanted = ("kl_divergence_mean", "top1_agreement")
        metrics = [m for m in token_metrics("", is_baseline=False) if m.name in wanted]
        scoring.score(table, metrics, reference=scoring.reference())
        scoring.put_together(table)
        return table


class _Kept:
    """Answers on their way to the disk: many prompts end at once, and each file is flushed."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.done = parts, parts.done()
        self._waiting: list[tuple[int, Generated]] = []
        self._written = time.monotonic()

    def add(self, index: int, one: Generated) -> None:
        """Keep the answer to prompt `index`."""
        self._waiting.append((index, one))
        if time.monotonic() - self._written > _WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write what is waiting."""
        if self._waiting:
            answers = [one for _, one in self._waiting]
            pairs = [[*zip(*one.likelihoods, strict=True)] for one in answers]
            self.parts.append(
                {
                    "prompt": [index for index, _ in self._waiting],
                    "text": [one.text for one in answers],
                    "tokens": [one.tokens for one in answers],
                    "stop": [one.stop for one in answers],
                    "log_probability": [list(one) for one, _ in pairs],
                    "lead": [list(one) for _, one in pairs],
                    "seconds": [one.seconds for one in answers],
                }
            )
        self._waiting, self._written = [], time.monotonic()


class _Progress:
    """Tokens made of those that all prompts may take; an answer that ends early leaves none."""

    def __init__(self, job: Job, stage: str, prompts: int, generate: int, send: Listener) -> None:
        self._event = Event(job.variant.label, stage, 0, prompts * generate, "tokens")
        self._generate, self._send, self._done = generate, send, 0

    def advance(self, tokens: int) -> None:
        """`tokens` more were made."""
        self._done += tokens
        self._send(dataclasses.replace(self._event, done=self._done))
        stop_if_asked()

    def ended(self, tokens: int) -> None:
        """An answer ended after `tokens`."""
        self._done += self._generate - tokens
