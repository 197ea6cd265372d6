"""`evalkit doctor`: a variant is made, loaded and examined beside the unquantized model."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.backends import parse_variant
from evalkit.demo_data import demo_directory
from evalkit.errors import EvalkitError, UsageError, VariantError
from evalkit.options import DoctorOptions
from evalkit.progress import Event, Listener
from evalkit.records.findings import Diagnosis, Finding
from evalkit.running.build_job import build_job, resolve_subject
from evalkit.running.calibration import (
    SELF,
    calibration_source,
    check_disjoint,
    load_calibration,
)
from evalkit.running.job import Job
from evalkit.running.process import run_child
from evalkit.running.quantize import make_checkpoint
from evalkit.texts.documents import Text, load_text

if TYPE_CHECKING:
    from evalkit.running.doctor.loaded_variant import LoadedVariant
    from evalkit.running.session import LoadedSession

TOKENS = 200
PAGE = 2_000


@dataclass(frozen=True)
class Examination:
    """What the child needs: the variant's job, the unquantized model's, and the text."""

    job: Job
    baseline: Job | None
    text: str


def diagnose(text: str, options: DoctorOptions, listener: Listener) -> Diagnosis:
    """Examine the variant `text`; raises EvalkitError where it cannot be made or loaded."""
    begun = time.perf_counter()
    variant = parse_variant(text)
    subject = resolve_subject(options, send=listener)
    page = _page(options)
    job = build_job(subject, variant, send=listener)
    findings = _overlap(job, page)
    if job.refusal:
        raise VariantError(job.refusal)
    plain = parse_variant("fp32" if subject.device == "cpu" else "fp16")
    baseline = None if variant.text == plain.text else build_job(subject, plain)
    make_checkpoint(job, listener)
    examination = Examination(job, baseline, "\n".join(page.documents)[:PAGE])
    kernel, checks, found = run_child(_examine, examination, listener, gpu=job.visible)
    return Diagnosis(
        variant.label, subject.model.name, kernel, (*checks, "calibration"), (*found, *findings),
        round(time.perf_counter() - begun, 1),
    )  # fmt: skip


def _page(options: DoctorOptions) -> Text:
    """The text to look at; without one a page of English that evalkit ships."""
    asked = options["text"]
    if asked is None:
        return load_text(str(demo_directory() / "text" / "town_test.txt"))
    return load_text(str(asked), offline=options["offline"])


def _overlap(job: Job, text: Text) -> list[Finding]:
    """Whether the calibration text shares 13 words in a row with the text examined."""
    source = calibration_source(job.variant, job.checkpoint)
    if source in ("", SELF) or job.refusal:
        return []
    calibration = load_calibration(source, job.variant, offline=job.settings.offline)
    try:
        check_disjoint(source, calibration, [text])
    except EvalkitError as error:
        fix = "calibrate on other text: calibration=FILE"
        why = "a model calibrated on the evaluation text looks better than it is"
        return [Finding("calibration", "warning", str(error), why, fix)]
    return []


def _examine(one: Examination, send: Listener) -> tuple[str, tuple[str, ...], tuple[Finding, ...]]:
    """In the child: the unquantized model's loss first, then every check on the variant."""
    from evalkit.running.doctor.checks import THOROUGH, examine
    from evalkit.running.doctor.loaded_variant import mean_loss
    from evalkit.running.session import loaded, open_variant

    loss = None
    if one.baseline is not None:
        with open_variant(one.baseline, send) as opened:
            loss = mean_loss(_with_text(loaded(opened), one.text))
        # The variant is loaded when this one is gone.
        del opened
    with open_variant(one.job, send) as opened:
        session = loaded(opened)
        variant = dataclasses.replace(
            _with_text(session, one.text), tokenizer=session.tokenizer, baseline=loss
        )
        send(Event(one.job.variant.label, "examining"))
        names = tuple(check.__name__.replace("_", " ") for check in THOROUGH)
        return session.kernel, names, tuple(examine(variant, THOROUGH))


def _with_text(session: LoadedSession, text: str) -> LoadedVariant:
    """The variant with the first tokens of `text`; raises UsageError where they are too few."""
    from evalkit.running.doctor.loaded_variant import loaded_variant

    job = session.job
    limit = job.checkpoint.positions or TOKENS
    ids = tuple(session.tokenizer(text)["input_ids"])[: min(TOKENS, limit)]
    if len(ids) < 4:
        raise UsageError("--text has fewer than 4 tokens: give a page of ordinary text")
    return dataclasses.replace(loaded_variant(session), ids=ids)
