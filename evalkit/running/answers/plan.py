"""From options to work: which variants answer which prompts, and what each answer is called."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.analysis.verdicts import Margin, parse_margin
from evalkit.backends import needs_memory, spec_of
from evalkit.declaration import command_line, words
from evalkit.errors import VariantError
from evalkit.numbers import counted
from evalkit.options import AnswersOptions
from evalkit.progress import Listener, ignore
from evalkit.records import Environment, Model, Run, Suite, Variant, content_hash, to_json
from evalkit.records.answers import Prompt
from evalkit.running.build_job import build_job, refused, resolve_subject
from evalkit.running.defaults import choose_variants
from evalkit.running.job import ANSWERS_VERSION, Job, Part
from evalkit.running.keys import answers_key
from evalkit.running.memory_check import with_memory_check
from evalkit.texts.prompts import load_prompts

# The measurements of a run of answers: the answers, the baseline's once more, and the predictions
# along the baseline's own answers.
ANSWERS, AGAIN, ALONG = "answers", "answers_again", "along_baseline"


@dataclass(frozen=True)
class Asked:
    """What is asked of every variant, and how it is to answer.

    `templated` says whether a text is asked as a user's turn where the model has a chat template;
    `arguments` are KEY=VALUE words for that template.
    """

    prompts: tuple[Prompt, ...]
    generate: int
    temperature: float
    seed: int
    templated: bool
    system: str
    arguments: tuple[str, ...]

    @property
    def uses_template(self) -> bool:
        """Whether any prompt may be put into the chat template."""
        return self.templated or any(prompt.messages for prompt in self.prompts)

    @property
    def hash(self) -> str:
        """Hash of what can change an answer; references and checks cannot."""
        asked = [[one.text, to_json(one)["messages"]] for one in self.prompts]
        drawn = [self.temperature, self.seed] if self.temperature else []
        return content_hash(
            [ANSWERS_VERSION, asked, self.generate, drawn, self.templated, self.system,
             self.arguments]
        )  # fmt: skip

    @property
    def words(self) -> str:
        """How tokens are chosen, in words."""
        most = f"up to {counted(self.generate, 'token')}"
        if not self.temperature:
            return f"greedy, {most}"
        return f"drawn at temperature {self.temperature:g} with seed {self.seed}, {most}"


@dataclass(frozen=True)
class AnswersPlan:
    """Jobs with one part each, the baseline's first; a job that cannot run says why."""

    asked: Asked
    jobs: tuple[Job, ...]
    margin: Margin
    model: Model
    environment: Environment
    store: Path
    notes: tuple[str, ...]
    command: str

    @property
    def id(self) -> str:
        """Names the result by what is in it, so that repeating it replaces it."""
        checks = [[one.reference, one.check] for one in self.asked.prompts]
        return content_hash([[job.parts[0].run.id for job in self.jobs], checks, self.margin.text])


def make_answers_plan(
    variants: Sequence[str], options: AnswersOptions, send: Listener = ignore
) -> AnswersPlan:
    """Resolve every word; raises UsageError, DataError or ModelError in one line."""
    chosen = choose_variants(variants)
    margin = parse_margin(options["margin"])
    asked = _asked(options)
    subject = resolve_subject(options, send=send, card_holds_model=any(map(needs_memory, chosen)))
    jobs = [refused(build_job(subject, variant, send=send), _refuse_served) for variant in chosen]
    jobs = with_memory_check(_with_parts(jobs, asked), asked.generate)
    return AnswersPlan(
        asked=asked,
        jobs=tuple(jobs),
        margin=margin,
        model=subject.model,
        environment=subject.environment,
        store=subject.store,
        notes=(*subject.notes, *(note for job in jobs for note in job.notes)),
        command=command_line("answers", variants, AnswersOptions, {**options, "fresh": False}),
    )


def _asked(options: AnswersOptions) -> Asked:
    return Asked(
        prompts=load_prompts(str(options["prompts"]), options["limit"]),
        generate=options["generate"],
        temperature=options["temperature"],
        seed=options["seed"],
        templated=not options["plain"],
        system=options["system"],
        arguments=words(options["chat_template_args"], "comma"),
    )


def _refuse_served(variant: Variant) -> None:
    """Raise VariantError for a server, which does not say how likely each token was."""
    if spec_of(variant).served:
        raise VariantError(
            f"{variant.label} runs in a server, which does not tell by how much each token led:"
            " give a variant that is loaded here"
        )


def _with_parts(jobs: Sequence[Job], asked: Asked) -> list[Job]:
    """The jobs with the run of their answers; the baseline also answers once more."""
    found: list[Job] = []
    suite = Suite(name=ANSWERS, convention="", context=0, bos="", protocol=asked.hash)
    baseline = answers_key(jobs[0], asked.hash, templated=asked.uses_template)
    for index, job in enumerate(jobs):
        key = answers_key(job, asked.hash, templated=asked.uses_template)
        run = Run(key, job.model, job.variant, suite, "running", environment=job.environment)
        further = AGAIN if index == 0 else ALONG
        needed = tuple((name, ANSWERS_VERSION) for name in (ANSWERS, further))
        part = Part("answers", run, needed, baseline="" if index == 0 else baseline)
        reference = content_hash([baseline, ALONG])
        found.append(
            dataclasses.replace(job, parts=(part,), reference=reference, is_baseline=index == 0)
        )
    return found
