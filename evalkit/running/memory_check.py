"""Refusing what cannot fit before anything is loaded, with the plan's numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import psutil

from evalkit.analysis.footprint import CPU, CUDA, Runtime
from evalkit.analysis.planner import Memory, memory
from evalkit.backends import loaded_as, needs_memory, parse_variant, spec_of
from evalkit.errors import ModelError
from evalkit.models.checkpoint import Checkpoint
from evalkit.records import Variant
from evalkit.running.environment import gpu_memory
from evalkit.running.gpus import gpu_of
from evalkit.running.hardware_plan import schemes_of, shape_of
from evalkit.running.job import Job

# Suggested where they would fit, beside the variants that were asked for.
SUGGESTED = ("int8", "int4")
# Files this much smaller than the memory fit in any precision: no plan is made for them.
SURELY = 4


def capacity(device: str) -> float:
    """Bytes of memory of the GPU called "cuda", "cuda:N" or by its word, or of the machine."""
    return float(gpu_memory(device) if device != "cpu" else psutil.virtual_memory().total)


def free_memory(device: str) -> int:
    """Bytes that are free now of what `capacity` counts."""
    if device == "cpu":
        return int(psutil.virtual_memory().available)
    gpu = gpu_of(device)
    return gpu.free if gpu else 0


def needed_memory(
    variants: Sequence[Variant], checkpoint: Checkpoint, device: str, context: int, batch: int = 1
) -> dict[str, float]:
    """Bytes that each variant (by its text) needs on `device`; imports torch.

    Left out are those that are offloaded or served, which take what room there is, and those that
    cannot be planned.
    """
    import evalkit.running.preload  # noqa: F401  imports torch without its libraries' remarks

    runtime = CPU if device == "cpu" else CUDA
    needs = _needs(list(filter(needs_memory, variants)), checkpoint, context, batch, runtime)
    return {text: need.total for text, need in needs.items()}


def with_memory_check(jobs: Sequence[Job], context: int, batch: int = 1) -> list[Job]:
    """The jobs, those that cannot fit at this context and batch with the reason as refusal."""
    first = jobs[0]
    variants = [job.variant for job in jobs]
    full = refusals(variants, first.checkpoint, first.gpu or first.device, context, batch)
    return [
        dataclasses.replace(job, refusal=job.refusal or full.get(job.variant.text, ""))
        for job in jobs
    ]


def refusals(
    variants: Sequence[Variant], checkpoint: Checkpoint, device: str, context: int, batch: int = 1
) -> dict[str, str]:
    """Why variants (by their text) cannot fit `device` at this context; empty where all can.

    `device` is as `capacity` takes it.
    Those that are offloaded or served take what room there is. A model that cannot be planned is
    not refused.
    """
    files = checkpoint.weight_bytes
    room = capacity(device)
    asked = list(filter(needs_memory, variants))
    if (files and SURELY * files < room) or not asked:
        return {}
    import evalkit.running.preload  # noqa: F401  imports torch without its libraries' remarks

    runtime = CPU if device == "cpu" else CUDA
    texts = {v.text: v for v in (*asked, *map(parse_variant, SUGGESTED))}
    needed = _needs(list(texts.values()), checkpoint, context, batch, runtime)
    fitting = [texts[text].label for text, need in needed.items() if need.total <= room]
    return {
        v.text: _refusal(v, needed[v.text], room, context, batch, fitting)
        for v in asked
        if v.text in needed and needed[v.text].total > room
    }


def _needs(
    variants: Sequence[Variant], checkpoint: Checkpoint, context: int, batch: int, runtime: Runtime
) -> dict[str, Memory]:
    """What the plan says of each variant, by its text."""
    found = {}
    for variant in variants:
        held = loaded_as(variant, "cpu" if runtime is CPU else "cuda")
        schemes, _, _ = schemes_of([held], checkpoint)
        for _, scheme in schemes:
            found[variant.text] = scheme
    try:
        shape = shape_of(checkpoint.name, checkpoint, list(found.values()))
    except ModelError:
        return {}
    return {
        text: memory(shape, scheme, batch, context, runtime=runtime)
        for text, scheme in found.items()
    }


def _refusal(
    variant: Variant, need: Memory, room: float, context: int, batch: int, fitting: Sequence[str]
) -> str:
    parts = (
        f"weights {_gigabytes(need.weights.total)}, KV cache {_gigabytes(need.kv_cache)},"
        f" activations {_gigabytes(need.activations)}, around them {_gigabytes(need.runtime)}"
    )
    fix = f"{', '.join(fitting)} would fit" if fitting else "no variant would fit"
    offload = "offload" in {o.name for o in spec_of(variant).options}
    return (
        f"{variant.label} needs {_gigabytes(need.total)} at batch {batch} and context {context}"
        f" ({parts}), and there are {_gigabytes(room)}: {fix}"
        + ("; --offload keeps the rest in main memory or on disk" if offload else "")
    )


def _gigabytes(size: float) -> str:
    digits = 1 if size >= 1e9 else 3
    return f"{size / 1e9:.{digits}f} GB"
