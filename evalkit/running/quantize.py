"""Making a quantized checkpoint in a process of its own, once, under a claim."""

from __future__ import annotations

from pathlib import Path

from evalkit.backends import cache_format, keeps, parse_variant, settled, without_cache
from evalkit.errors import UsageError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.resolve import resolve_model
from evalkit.options import QuantizeOptions
from evalkit.progress import Event, Listener
from evalkit.records import Variant
from evalkit.running.calibration import calibration_source, choose_calibration
from evalkit.running.calibration_samples import calibration_samples
from evalkit.running.gpus import gpu_of, resolve_device
from evalkit.running.job import Job
from evalkit.running.process import run_child
from evalkit.running.readiness import refuse_fetching, refuse_quantizing
from evalkit.store.claims import claim
from evalkit.store.store import Store


def make_checkpoint(job: Job, listener: Listener) -> None:
    """Make the quantized checkpoint that `job` keeps in the store, if it keeps one and has none.

    It is made in a process of its own, so that nothing of the quantizer stays in memory.
    """
    if keeps(job.variant) and job.model.weights == "checkpoint":
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
                calibration_samples(
                    job.checkpoint,
                    job.variant,
                    job.device,
                    seed=job.seed,
                    offline=job.settings.offline,
                    allow_pickle=job.settings.allow_pickle,
                    trust_remote_code=job.settings.trust_remote_code,
                    send=send,
                ),
                allow_pickle=job.settings.allow_pickle,
                trust_remote_code=job.settings.trust_remote_code,
                listener=send,
            )


def quantize_to(variant: str, options: QuantizeOptions, listener: Listener) -> Path:
    """Write the checkpoint of `variant` into the directory `out` of the options.

    Raises UsageError where it is not empty or the variant is not quantized.
    """
    out = Path(options["out"])
    asked = parse_variant(variant)
    if cache_format(asked) is not None:
        raise UsageError(
            f"{variant}: a checkpoint holds no KV cache: quantize {without_cache(asked).text}, and"
            f" give kv_cache= where it is compared ({out},kv_cache=int8)"
        )
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
    refuse_quantizing(card, checkpoint.weight_bytes, out)
    chosen, notes = _chosen(asked, checkpoint, offline=options["offline"])
    for note in notes:
        listener(Event(chosen.label, "", message=note))
    order = (chosen, checkpoint, device.partition(":")[0], options)
    run_child(_write, order, listener, gpu=card)
    return out


def _chosen(
    variant: Variant, checkpoint: Checkpoint, *, offline: bool
) -> tuple[Variant, tuple[str, ...]]:
    """The method and the calibration of `variant` for this model, and why these."""
    variant, why = settled(checkpoint, variant)
    note = ""
    if calibration_source(variant, checkpoint):
        variant, _, note = choose_calibration(variant, checkpoint, offline=offline)
    return variant, tuple(filter(None, (why, note)))


def _write(order: tuple[Variant, Checkpoint, str, QuantizeOptions], send: Listener) -> None:
    from evalkit.backends._artifacts import write_checkpoint

    variant, checkpoint, device, options = order
    send(Event(variant.label, "quantizing"))
    write_checkpoint(
        Path(options["out"]),
        checkpoint,
        variant,
        device,
        calibration_samples(
            checkpoint,
            variant,
            device,
            seed=options["seed"],
            offline=options["offline"],
            allow_pickle=options["allow_pickle"],
            trust_remote_code=options["trust_remote_code"],
            send=send,
        ),
        allow_pickle=options["allow_pickle"],
        trust_remote_code=options["trust_remote_code"],
        for_others=True,
        listener=send,
    )
