"""What `compare`, `bench` and `doctor` choose alike: model, files, calibration, servers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from evalkit import plugins
from evalkit.backends import check_installed, parse_variant, spec_of
from evalkit.errors import UsageError, VariantError, unknown
from evalkit.models.resolve import Checkpoint, resolve_config, resolve_model
from evalkit.records import Variant
from evalkit.running.calibration import (
    calibration_identity,
    calibration_source,
    check_disjoint,
    load_calibration,
)
from evalkit.running.environment import gpu_memory
from evalkit.running.job import VariantJob
from evalkit.store.store import Store
from evalkit.texts.documents import load_texts

# On a CPU activations of more tokens leave the cache: nothing is gained by larger batches.
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
# Phi-3 Small in 16 bit takes 14.8 GB; cache and activations of scoring need a few more.
PHI_3_SMALL_BYTES = 20e9

WEIGHTS = ("checkpoint", "random")


def choose_model(asked: str | None, device: str) -> tuple[str, str]:
    """The model's name and, where none was asked for, why this one."""
    if asked is not None:
        return asked, ""
    if device == "cpu":
        return "demo", "Model: the embedded demo, as this machine has no usable CUDA GPU."
    memory = gpu_memory()
    if memory >= PHI_3_SMALL_BYTES:
        return "phi-3-small", f"Model: Phi-3 Small, which fits this GPU of {memory / 1e9:.0f} GB."
    return "demo", (
        f"Model: the embedded demo, as Phi-3 Small needs {PHI_3_SMALL_BYTES / 1e9:.0f} GB"
        f" and this GPU has {memory / 1e9:.0f} GB."
    )


def choose_checkpoint(request: Any, name: str, store: Store) -> Checkpoint:
    """The model's files; of random weights the configuration alone, which needs no download.

    Raises UsageError for a word of `--weights` that is none, or for quality of random weights.
    """
    if request.weights not in WEIGHTS:
        raise unknown("weights", request.weights, WEIGHTS)
    if request.weights == "random":
        if any(getattr(request, word, None) for word in ("text", "tasks", "suite")):
            raise UsageError(
                "--weights random has no quality to measure: leave out --text, --tasks and --suite"
            )
        return resolve_config(name, offline=request.offline)
    return resolve_model(
        name,
        offline=request.offline,
        allow_pickle=request.allow_pickle,
        trust_remote_code=request.trust_remote_code,
        hash_cache=store.root / "hashes.json",
    )


def with_offload(variants: Sequence[Variant]) -> list[Variant]:
    """The variants, those whose backend can offload with `offload=true`.

    Raises UsageError where none can.
    """
    found = [offloading(variant) for variant in variants]
    if not any(variant.option("offload", False) for variant in found):
        words = ", ".join(variant.label for variant in variants)
        raise UsageError(f"--offload: {words} cannot be offloaded; fp32, fp16 and bf16 can")
    return found


def offloading(variant: Variant) -> Variant:
    """The variant with `offload=true`, where its backend can."""
    options = {option.name for option in spec_of(variant).options}
    if "offload" not in options or variant.option("offload", False):
        return variant
    return parse_variant(f"{variant.label},offload=true")


def with_servers(jobs: Sequence[VariantJob], commands: Sequence[str]) -> list[VariantJob]:
    """The jobs, those of served variants with the `--serve` commands in turn.

    Raises UsageError for more commands than served variants.
    """
    waiting = list(commands)
    found = []
    for job in jobs:
        served = spec_of(job.variant).served and waiting
        found.append(dataclasses.replace(job, serve=waiting.pop(0)) if served else job)
    if waiting:
        raise UsageError(
            f"--serve {waiting[0]!r} has no variant: name one such as "
            "served@endpoint,url=http://127.0.0.1:8000 for each --serve"
        )
    return found


def calibration_of(job: VariantJob) -> str:
    """Identity of the calibration samples, empty for a method that needs none.

    Raises VariantError or DataError where the variant cannot be made of this model.
    """
    check_installed(spec_of(job.variant))
    plugins.load("backends", job.variant.backend).check(job.checkpoint, job.variant)
    if job.model.weights == "random":
        if spec_of(job.variant).served:
            raise VariantError(f"{job.variant.text} has the weights of its server, not random ones")
        return ""
    source = calibration_source(job.variant, job.checkpoint)
    if not source:
        return ""
    text = load_calibration(source, job.variant, offline=job.settings.offline)
    if not job.settings.allow_overlap:
        evaluated = load_texts(job.sources, limit=job.limit, offline=job.settings.offline)
        check_disjoint(source, text, evaluated)
    return calibration_identity(text, job.seed)
