"""One task of a suite: prompts built once, asked of the loaded variant, scored by lm-eval."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from evalkit.analysis.task_groups import ScoreGroup
from evalkit.errors import DataError
from evalkit.progress import Event, Listener
from evalkit.records import Measurement, Run, TaskSlice, content_hash
from evalkit.results.load_measured import GROUPS
from evalkit.running.compare.until_decided import UntilDecided
from evalkit.running.job import TASK_VERSION, Job, Part
from evalkit.running.process import stop_if_asked
from evalkit.running.session import Session
from evalkit.store.samples import SampleRecords
from evalkit.store.store import Store
from evalkit.store.task_requests import TaskRequests
from evalkit.tasks.answers import answer_requests
from evalkit.tasks.groups import score_groups
from evalkit.tasks.lm_eval_task import lm_eval_version
from evalkit.tasks.loading import LoadedTask, LoadedTasks, load_tasks
from evalkit.tasks.prompts import ChatFormatter, build_requests
from evalkit.tasks.scores import score_answers

# Items the baseline answers twice, the second time with half the batch, for the noise floor.
NOISE_ITEMS = 50


def measure_task(
    store: Store, part: Part, run: Run, session: Session, send: Listener
) -> list[Measurement]:
    """Scores of the part's task (or of every task of its group), with their sample records.

    Raises DataError where the task is unknown, cannot be had or its code fails; answers given
    before an interruption are kept.
    """
    job = session.job
    chosen = part.run.suite.tasks[0]
    found = _load(job, chosen)
    until = UntilDecided(store, job, part.stopping) if part.stopping is not None else None
    asking = _Asking(store, run, session, send, until)
    measured: list[Measurement] = []
    for task in found.tasks:
        requests, prompts = _requests(store, job, chosen, task, session.tokenizer)
        measured += asking.scores(task, requests, prompts)
    marker = _marker(score_groups(found.groups, asking.records), asking.notes)
    return [*measured, dataclasses.replace(marker, baseline=part.baseline)]


def part_requests(
    store: Store, job: Job, part: Part, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[TaskRequests, str]]:
    """What the part's task (or every task of its group) asks, and the file of it in the store.

    Raises DataError as `measure_task` does.
    """
    chosen = part.run.suite.tasks[0]
    return [_requests(store, job, chosen, task, tokenizer) for task in _load(job, chosen).tasks]


def noise_sample(requests: TaskRequests) -> TaskRequests:
    """What the baseline answers twice: some items, none of a task that generates text."""
    count = 0 if requests.output_type == "generate_until" else NOISE_ITEMS
    return dataclasses.replace(requests, items=requests.items[:count])


def _load(job: Job, chosen: TaskSlice) -> LoadedTasks:
    include = (job.settings.include_path,) if job.settings.include_path else ()
    found = load_tasks(
        [chosen],
        data=job.settings.data,
        include_path=include,
        offline=job.settings.offline,
        seed=job.seed,
        allow_code=job.settings.allow_code,
    )
    if found.failures:
        raise DataError("; ".join(failure.message for failure in found.failures))
    return found


def _requests(
    store: Store,
    job: Job,
    chosen: TaskSlice,
    task: LoadedTask,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[TaskRequests, str]:
    """The prompts of `task`, built by the first variant and read by the others; their file."""
    name = f"prompts/{_prompts_key(job, chosen, task)}.parquet"
    if (store.root / name).exists():
        return TaskRequests.load(store.root / name), name
    chat = ChatFormatter(tokenizer, chosen.chat_arguments) if chosen.chat else None
    requests = build_requests(task, chat_template=chat, system=chosen.system or None)
    requests.save(store.root / name)
    return requests, name


def _prompts_key(job: Job, chosen: TaskSlice, task: LoadedTask) -> str:
    """Hash of what makes the prompts of `task`: its settings and files, lm-eval, the seed.

    The data files are those that were read: `chosen` knows only what lies where data is looked
    for first.
    """
    files = [(file.split, file.sha256) for file in task.files]
    content = [dataclasses.astuple(chosen), task.name, task.shots, files, lm_eval_version()]
    return content_hash([*content, job.seed, _chat_template(job) if chosen.chat else []])


def _chat_template(job: Job) -> list[str]:
    """What makes a chat of all variants: the baseline's template, and its special tokens."""
    return [job.checkpoint.identity.chat_template, job.checkpoint.identity.tokenizer]


@dataclasses.dataclass
class _Asking:
    """A loaded variant that answers tasks; `notes` and `records` collect what came of it.

    `until` stops a task when it is decided; None asks it whole.
    """

    store: Store
    run: Run
    session: Session
    send: Listener
    until: UntilDecided | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    records: dict[str, SampleRecords] = dataclasses.field(default_factory=dict)

    def scores(self, task: LoadedTask, requests: TaskRequests, prompts: str) -> list[Measurement]:
        """Ask, score and store one task."""
        folder = self.store.raw(self.run.id)
        lm = self.session.language_model(self.job.seed)
        drawn: dict[str, Any] = {}
        try:
            again = sum(1 for _ in noise_sample(requests).flat()) * self.job.is_baseline
            advance = self._advance(task.name, later=again)
            if self.until is None:
                answers = answer_requests(requests, lm, folder, advance=advance)
            else:
                task, requests, answers, drawn = self.until.answers(
                    task, requests, lm, folder, advance
                )
        except DataError as error:
            raise DataError(f"{task.name}: {error}") from error
        records = score_answers(task, requests, answers)
        notes = (*records.head.notes, *lm.notes)
        records = dataclasses.replace(records, head=dataclasses.replace(records.head, notes=notes))
        table = folder / f"samples-{task.name.replace('/', '_')}.parquet"
        records.save(table)
        self.records[task.name] = records
        self.notes += [f"{task.name}: {note}" for note in notes]
        noise = None
        if self.job.is_baseline:
            noise = self._noise(task, requests, answers, lm.batch_tokens)
        return [
            Measurement(
                metric=records.key(score),
                version=TASK_VERSION,
                unit="",
                direction="lower" if score.higher_is_better is False else "higher",
                values=(score.value,),
                table=str(table.relative_to(self.store.root)),
                convention=f"{requests.shots} shots, {requests.split} split",
                details=_details(task, records, score, noise) | {"prompts": prompts} | drawn,
            )
            for score in records.head.scores
        ]

    @property
    def job(self) -> Job:
        """The job of the session."""
        return self.session.job

    def _advance(self, name: str, *, before: int = 0, later: int = 0) -> Callable[[int, int], None]:
        """Count requests, with those that were asked `before` and will be asked `later`."""

        def advance(done: int, total: int) -> None:
            whole = before + total + later
            self.send(Event(self.job.variant.label, name, before + done, whole, "requests"))
            stop_if_asked()

        return advance

    def _noise(
        self, task: LoadedTask, requests: TaskRequests, answers: Any, batch_tokens: int | None
    ) -> float | None:
        """Largest change of a log-likelihood, in nats, when half of `batch_tokens` is used."""
        sample = noise_sample(requests)
        if not sample.items:
            return None
        folder = self.store.raw(self.run.id) / "noise"
        half = max(1, (batch_tokens or self.job.settings.batch_tokens) // 2)
        lm = self.session.language_model(self.job.seed, half)
        asked = sum(1 for _ in requests.flat())
        advance = self._advance(f"{task.name} again", before=asked)
        again = answer_requests(sample, lm, folder, advance=advance)
        first = answers.loglikelihood[: len(again.loglikelihood)]
        # What could not be scored is NaN both times.
        return float(np.max(np.nan_to_num(np.abs(again.loglikelihood - first)), initial=0.0))


def _details(
    task: LoadedTask, records: SampleRecords, score: Any, noise: float | None
) -> dict[str, Any]:
    return {
        "task": task.name,
        "score": score.metric,
        "filter": score.filter,
        "aggregation": score.aggregation,
        "primary": score == records.primary,
        "higher_is_better": score.higher_is_better is not False,
        "n": score.n,
        "noise_nats": noise,
    }


def _marker(groups: Sequence[ScoreGroup], notes: list[str]) -> Measurement:
    """Says that the part is whole, its group scores, and what was recorded on the way."""
    found = [dataclasses.asdict(group) for group in groups]
    return Measurement(
        metric="task",
        version=TASK_VERSION,
        unit="",
        direction="none",
        details={GROUPS: found, "notes": list(dict.fromkeys(notes))},
    )
