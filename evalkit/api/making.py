"""Planning, quantizing and fetching: what comes before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import DataError
from evalkit.progress import Listener, live

if TYPE_CHECKING:
    from evalkit.analysis.planner import Plan


def plan(
    *variants: str,
    model: str | None = None,
    gpu: str | None = None,
    context: int | None = None,
    batch: int = 1,
    prefill_chunk: int = 0,
    offline: bool = False,
) -> Plan:
    """What each variant of `model` needs on `gpu` and how fast it could be; loads no weights.

    `context` is tokens of a sequence (default 8192, or the model's positions where they are
    fewer), `batch` sequences, `prefill_chunk` tokens of a prompt pass at most (0: all at once).
    Without `gpu` the machine's own card, else an RTX 4090; without `model` Phi-3 Small.

    Raises UsageError or ModelError in one line.
    """
    from evalkit.running.hardware_plan import HardwareRequest, plan_hardware

    request = HardwareRequest(variants, model, gpu, context, batch, prefill_chunk, offline)
    return plan_hardware(request)


def quantize(
    variant: str,
    *,
    model: str,
    out: Path | str,
    device: str = "auto",
    seed: int = 0,
    offline: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    progress: Listener | None = None,
) -> Path:
    """Write the quantized checkpoint of `variant` into the new directory `out`."""
    from evalkit.running.quantize import quantize_to

    request = {
        "model": model, "device": device, "seed": seed, "offline": offline,
        "allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    if progress is not None:
        return quantize_to(variant, Path(out), request, progress)
    with live() as listener:
        return quantize_to(variant, Path(out), request, listener)


def pull(
    *tasks: str, out: Path | str, include_path: Path | None = None, allow_code: bool = False
) -> list[str]:
    """Store the splits of lm-eval tasks as OUT/tasks/TASK/SPLIT.jsonl; a line for each task.

    Raises DataError naming the tasks that could not be had, after storing the others.
    """
    from evalkit.tasks.pull import pull_tasks

    folders = (include_path,) if include_path else ()
    pulled = pull_tasks(tasks, Path(out), include_path=folders, allow_code=allow_code)
    if pulled.failures:
        raise DataError("; ".join(failure.message for failure in pulled.failures))
    return [
        f"{folder}: {', '.join(f'{split.split} {split.rows} rows' for split in manifest.splits)}"
        for folder, manifest in zip(pulled.folders, pulled.manifests, strict=True)
    ]
