"""Making a quantized checkpoint in a process of its own, once, under a claim."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.backends import parse_variant, resolved_options, spec_of
from evalkit.models.resolve import Checkpoint, resolve_model
from evalkit.progress import Event, Listener
from evalkit.records import Variant
from evalkit.running.calibration import (
    calibration_identity,
    calibration_source,
    load_calibration,
)
from evalkit.running.environment import resolve_device
from evalkit.running.job import VariantJob
from evalkit.running.process import run_child
from evalkit.store.claims import claim
from evalkit.store.store import Store


def quantize_variant(job: VariantJob, send: Listener) -> None:
    """Make the artifact of `job` in the store if there is none yet."""
    from evalkit.backends._artifacts import artifact_name, find_artifact, make_artifact

    store = Store(job.store)
    arguments = (job.checkpoint, job.variant, job.calibration)
    if find_artifact(store.artifacts(), *arguments) is not None:
        return
    name = artifact_name(*arguments)
    label = job.variant.label

    def wait(who: str) -> None:
        send(Event(label, "", message=f"waiting for {who}, which quantizes it now"))

    with claim(store.claim_file(name), wait):
        if find_artifact(store.artifacts(), *arguments) is None:
            send(Event(label, "quantizing"))
            make_artifact(
                store.artifacts(),
                job.checkpoint,
                job.variant,
                job.device,
                _samples(job.checkpoint, job.variant, job.seed, job.settings.offline),
                allow_pickle=job.settings.allow_pickle,
                trust_remote_code=job.settings.trust_remote_code,
                listener=send,
            )


def quantize_to(text: str, out: Path, request: dict[str, Any], listener: Listener) -> Path:
    """Write the checkpoint of variant `text` into `out`; `request` are the words of the command.

    Raises UsageError where `out` is not empty or the variant is not quantized.
    """
    flags = {name: request[name] for name in ("offline", "allow_pickle", "trust_remote_code")}
    order = _Order(
        variant=parse_variant(text),
        checkpoint=resolve_model(request["model"], **flags),
        out=out,
        device=resolve_device(request["device"]),
        seed=request["seed"],
        **flags,
    )
    run_child(_write, order, listener)
    return out


@dataclass(frozen=True)
class _Order:
    variant: Variant
    checkpoint: Checkpoint
    out: Path
    device: str
    seed: int
    offline: bool
    allow_pickle: bool
    trust_remote_code: bool


def _write(order: _Order, send: Listener) -> None:
    from evalkit.backends._artifacts import write_checkpoint

    send(Event(order.variant.label, "quantizing"))
    write_checkpoint(
        order.out,
        order.checkpoint,
        order.variant,
        order.device,
        _samples(order.checkpoint, order.variant, order.seed, order.offline),
        allow_pickle=order.allow_pickle,
        trust_remote_code=order.trust_remote_code,
        listener=send,
    )


def _samples(checkpoint: Checkpoint, variant: Variant, seed: int, offline: bool) -> Any:
    """The calibration samples, or None for a method that needs none."""
    from evalkit.backends._artifacts import Calibration
    from evalkit.models.loading import load_tokenizer
    from evalkit.texts.calibration import calibration_samples
    from evalkit.texts.encoding import text_encoder

    source = calibration_source(variant, checkpoint)
    if not source:
        return None
    text = load_calibration(source, variant, offline=offline)
    options = resolved_options(spec_of(variant), variant)
    limit = int(checkpoint.config.get("max_position_embeddings") or options["sample_length"])
    samples = calibration_samples(
        text_encoder(load_tokenizer(checkpoint.path)).encode,
        text.documents,
        samples=int(options["samples"]),
        length=min(int(options["sample_length"]), limit),
        seed=seed,
    )
    return Calibration(samples, calibration_identity(text, seed))
