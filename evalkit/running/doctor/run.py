"""`evalkit doctor`: a variant is made, loaded and examined beside the unquantized model."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from evalkit.backends import parse_variant, spec_of
from evalkit.demo_data import demo_directory
from evalkit.errors import EvalkitError, UsageError
from evalkit.metrics import Protocol
from evalkit.models.resolve import resolve_model
from evalkit.progress import Event, Listener
from evalkit.records import Model, Variant
from evalkit.records.findings import Diagnosis, Finding
from evalkit.running.calibration import calibration_source, check_disjoint, load_calibration
from evalkit.running.defaults import BATCH_TOKENS, calibration_of, choose_model
from evalkit.running.environment import environment, resolve_device
from evalkit.running.job import Settings, VariantJob
from evalkit.running.process import run_child
from evalkit.store.store import Store
from evalkit.texts.documents import Text, load_text

TOKENS = 200
PAGE = 2_000


@dataclass(frozen=True)
class DoctorRequest:
    """The words of `evalkit doctor`; without `text` a page of English that evalkit ships."""

    variant: str
    model: str | None = None
    text: str | None = None
    device: str = "auto"
    seed: int = 0
    out: Path | None = None
    offline: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Examination:
    """What the child needs: the variant's job, the unquantized model's, and the text."""

    job: VariantJob
    baseline: VariantJob | None
    text: str


def diagnose(request: DoctorRequest, listener: Listener) -> Diagnosis:
    """Examine the variant; raises EvalkitError in one line where it cannot be made or loaded."""
    begun = time.perf_counter()
    variant = parse_variant(request.variant)
    device = resolve_device(request.device)
    name, why = choose_model(request.model, device)
    if why:
        listener(Event("evalkit", "", message=why))
    text = _text(request)
    job = _job(request, variant, name, device)
    findings = _overlap(job, text)
    job = dataclasses.replace(job, calibration=calibration_of(job))
    plain = parse_variant("fp32" if device == "cpu" else "fp16")
    baseline = None if variant.text == plain.text else dataclasses.replace(job, variant=plain)
    if spec_of(variant).quantizes:
        run_child(_quantize, job, listener)
    page = "\n".join(text.documents)[:PAGE]
    kernel, checks, found = run_child(_examine, Examination(job, baseline, page), listener)
    return Diagnosis(
        variant.label, name, kernel, (*checks, "calibration"), (*found, *findings),
        round(time.perf_counter() - begun, 1),
    )  # fmt: skip


def _text(request: DoctorRequest) -> Text:
    if request.text is not None:
        return load_text(request.text, offline=request.offline)
    return load_text(str(demo_directory() / "text" / "town_test.txt"))


def _job(request: DoctorRequest, variant: Variant, name: str, device: str) -> VariantJob:
    store = Store(request.out).prepare()
    checkpoint = resolve_model(
        name,
        offline=request.offline,
        allow_pickle=request.allow_pickle,
        trust_remote_code=request.trust_remote_code,
        hash_cache=store.root / "hashes.json",
    )
    settings = Settings(
        BATCH_TOKENS[device.partition(":")[0]],
        Protocol(),
        allow_pickle=request.allow_pickle,
        trust_remote_code=request.trust_remote_code,
        offline=request.offline,
    )
    return VariantJob(
        store=store.root,
        model=Model(name, checkpoint.identity, architecture=checkpoint.architecture),
        checkpoint=checkpoint,
        variant=variant,
        device=device,
        environment=environment(device),
        settings=settings,
        parts=(),
        seed=request.seed,
    )


def _overlap(job: VariantJob, text: Text) -> list[Finding]:
    """Whether the calibration text shares 13 words in a row with the text examined."""
    source = calibration_source(job.variant, job.checkpoint)
    if not source:
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
    from evalkit.models.loading import load_tokenizer
    from evalkit.running.compare.worker import load_variant, prepare_source
    from evalkit.running.doctor.checks import THOROUGH, Patient, examine, mean_loss

    store = Store(one.job.store)
    tokenizer = load_tokenizer(one.job.checkpoint.path)
    ids = tuple(tokenizer(one.text)["input_ids"])
    limit = int(one.job.checkpoint.config.get("max_position_embeddings") or TOKENS)
    ids = ids[: min(TOKENS, limit)]
    if len(ids) < 4:
        raise UsageError("--text has fewer than 4 tokens: give a page of ordinary text")
    loss = None
    if one.baseline is not None:
        send(Event(one.baseline.variant.label, "loading"))
        loaded = load_variant(one.baseline, one.baseline.checkpoint.path)
        plain = Patient(loaded.model, one.baseline.variant, one.job.device, loaded.kernel, ids=ids)
        loss = mean_loss(plain)
        del loaded, plain
    send(Event(one.job.variant.label, "loading"))
    source, _ = prepare_source(store, one.job, send)
    loaded = load_variant(one.job, source)
    patient = Patient(
        loaded.model,
        one.job.variant,
        one.job.device,
        loaded.kernel,
        tokenizer,
        ids,
        loss,
        loaded.formats,
    )
    send(Event(one.job.variant.label, "examining"))
    names = tuple(check.__name__.replace("_", " ") for check in THOROUGH)
    return loaded.kernel, names, tuple(examine(patient, THOROUGH))


def _quantize(job: VariantJob, send: Listener) -> None:
    from evalkit.running.quantize import quantize_variant

    quantize_variant(job, send)
