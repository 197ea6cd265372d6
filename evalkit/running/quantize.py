"""Making a quantized checkpoint in a process of its own, once, under a claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evalkit.backends import parse_variant, resolved_options, spec_of
from evalkit.models.resolve import Checkpoint, resolve_model
from evalkit.options import QuantizeOptions
from evalkit.progress import Event, Listener
from evalkit.records import Variant
from evalkit.running.calibration import (
    calibration_identity,
    calibration_source,
    load_calibration,
)
from evalkit.running.gpus import gpu_of, resolve_device
from evalkit.running.job import Job
from evalkit.running.process import run_child
from evalkit.running.readiness import refuse_fetching, refuse_quantizing
from evalkit.store.claims import claim
from evalkit.store.store import Store


def make_checkpoint(job: Job, listener: Listener) -> None:
    """Make the quantized checkpoint that `job` needs in the store, if it needs one and has none.

    It is made in a process of its own, so that nothing of the quantizer stays in memory.
    """
    if spec_of(job.variant).quantizes and job.model.weights == "checkpoint":
        run_child(_make, job, listener, gpu=job.visible)


def _make(job: Job, send: Listener) -> None:
    from evalkit.backends._artifacts import artifact_name, find_artifact, make_artifact

    store = Store(job.store)
    arguments = (job.checkpoint, job.variant, job.calibration, job.device)
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


def quantize_to(variant: str, options: QuantizeOptions, listener: Listener) -> Path:
    """Write the checkpoint of `variant` into the directory `out` of the options.

    Raises UsageError where it is not empty or the variant is not quantized.
    """
    out = Path(options["out"])
    device = resolve_device(options["device"])
    gpu = gpu_of(device)
    card = gpu.word if gpu else ""
    refuse_fetching(
        str(options["model"]), card, out, offline=options["offline"], card_holds_model=False
    )
    checkpoint = resolve_model(
        str(options["model"]),
        offline=options["offline"],
        allow_pickle=options["allow_pickle"],
        trust_remote_code=options["trust_remote_code"],
    )
    refuse_quantizing(card, sum(file.stat().st_size for file in checkpoint.weight_files), out)
    order = (parse_variant(variant), checkpoint, device.partition(":")[0], options)
    run_child(_write, order, listener, gpu=card)
    return out


def _write(order: tuple[Variant, Checkpoint, str, QuantizeOptions], send: Listener) -> None:
    from evalkit.backends._artifacts import write_checkpoint

    variant, checkpoint, device, options = order
    send(Event(variant.label, "quantizing"))
    write_checkpoint(
        Path(options["out"]),
        checkpoint,
        variant,
        device,
        _samples(checkpoint, variant, options["seed"], options["offline"]),
        allow_pickle=options["allow_pickle"],
        trust_remote_code=options["trust_remote_code"],
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
    return Calibration(samples, calibration_identity(text, seed, checkpoint.identity.tokenizer))
