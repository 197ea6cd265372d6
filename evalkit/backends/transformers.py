"""The model as it is, in 32 or 16 bit, run by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.backends import _schemes
from evalkit.backends._checks import DTYPES, check_unquantized
from evalkit.backends._kernels import Capability, KernelChoice
from evalkit.backends._spec import (
    BackendSpec,
    Option,
    check_device,
    method_label,
    resolved_options,
)
from evalkit.records import Variant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.analysis.footprint import Scheme
    from evalkit.models.checkpoint import Checkpoint
    from evalkit.models.loading import Loaded
    from evalkit.models.shapes import Shape

SPEC = BackendSpec(
    name="transformers",
    summary="unquantized weights in 32 or 16 bit",
    precisions=("fp32", "fp16", "bf16"),
    options=(
        Option("offload", False, "keep what does not fit the device in main memory or on disk"),
    ),
)


def check(checkpoint: Checkpoint, variant: Variant) -> None:
    """Raise VariantError for a checkpoint that is already quantized."""
    check_unquantized(checkpoint, variant)


def label(variant: Variant) -> str:
    """The precision alone: nothing is quantized."""
    return method_label(variant, "")


def scheme(variant: Variant) -> Scheme:
    """How a linear layer is stored, for the planner."""
    return _schemes.plain(variant.precision)


def kernel_for(
    variant: Variant, shapes: Mapping[str, Shape], capability: Capability
) -> KernelChoice:
    """torch's own linear layer, whatever the card."""
    return KernelChoice("Linear")


def prepare() -> None:
    """Import torch and transformers."""
    import evalkit.models.loading  # noqa: F401


def load(
    source: Path,
    variant: Variant,
    device: str,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Loaded:
    """The checkpoint `source` with its weights cast to the variant's precision on `device`."""
    from evalkit.models.kernels import kernel_names
    from evalkit.models.loading import Loaded, load_causal_lm
    from evalkit.models.offload import offload_note

    check_device(SPEC, device)
    offload = bool(resolved_options(SPEC, variant)["offload"])
    model = load_causal_lm(
        source,
        dtype=DTYPES[variant.precision],
        device=device,
        offload=offload,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    return Loaded(model, kernel_names(model), notes=offload_note(model) if offload else ())


def load_random(checkpoint: Checkpoint, variant: Variant, device: str, *, seed: int = 0) -> Loaded:
    """The architecture of `checkpoint` with random weights in the variant's precision."""
    import torch

    from evalkit.models.kernels import kernel_names
    from evalkit.models.loading import Loaded
    from evalkit.models.random_weights import NOTE, random_model

    check_device(SPEC, device)
    dtype = getattr(torch, DTYPES[variant.precision])
    model = random_model(checkpoint.config, dtype=dtype, device=device, seed=seed)
    return Loaded(model, kernel_names(model), notes=(NOTE,))
