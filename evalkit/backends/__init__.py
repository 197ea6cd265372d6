"""How a variant is made and loaded: one file a backend, the file name is its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit import plugins
from evalkit.backends._checks import LEAST_PACKED
from evalkit.backends._kernels import Capability, KernelChoice, kernel_for, missing_tools
from evalkit.backends._kv_cache import (
    SIMULATED,
    cache_format,
    cache_words,
    check_cache,
    refuse_simulated,
    with_quantized_cache,
    without_cache,
)
from evalkit.backends._ladder import next_method, settled
from evalkit.backends._mixed import PLAN, format_words
from evalkit.backends._parse import BARE, parse_variant, spec_of
from evalkit.backends._spec import (
    BackendSpec,
    Option,
    check_device,
    check_installed,
    method_label,
    resolved_options,
)
from evalkit.errors import VariantError
from evalkit.records import Variant

if TYPE_CHECKING:
    from evalkit.models.checkpoint import Checkpoint
    from evalkit.models.loading import Loaded

__all__ = [
    "BARE",
    "LEAST_PACKED",
    "PLAN",
    "SIMULATED",
    "BackendSpec",
    "Capability",
    "KernelChoice",
    "Option",
    "cache_format",
    "check",
    "check_device",
    "check_installed",
    "for_scoring",
    "format_words",
    "keeps",
    "kernel_for",
    "label",
    "libraries",
    "loaded_as",
    "method_label",
    "missing_tools",
    "next_method",
    "parse_variant",
    "refuse_timing",
    "resolved_options",
    "run_settings",
    "settled",
    "spec_of",
    "with_quantized_cache",
    "without_cache",
]


def label(variant: Variant) -> str:
    """What tables and charts call `variant`, in its backend's words: "int8 LLM.int8() KV int4"."""
    backend, weights = plugins.load("backends", variant.backend), without_cache(variant)
    if hasattr(backend, "label"):
        words = str(backend.label(weights))
    else:
        words = method_label(weights, variant.backend)
    return " ".join(filter(None, (words, cache_words(variant))))


def check(checkpoint: Checkpoint, variant: Variant) -> None:
    """Raise VariantError where weights or KV cache of `variant` cannot be made of the model."""
    plugins.load("backends", variant.backend).check(checkpoint, variant)
    check_cache(checkpoint, variant)


def run_settings(variant: Variant) -> tuple[str, ...]:
    """Names of the settings of a run that change the numbers of `variant`, such as batch_tokens."""
    backend = plugins.load("backends", variant.backend)
    if hasattr(backend, "run_settings"):
        return tuple(backend.run_settings(variant))
    return ()


def for_scoring(loaded: Loaded, device: str) -> Loaded:
    """`loaded` with the arithmetic of the quality pass; see `evalkit.models.compute`."""
    from evalkit.models import compute

    return compute.for_scoring(loaded, device)


def needs_memory(variant: Variant) -> bool:
    """Whether `variant` must fit the device's memory: one that is offloaded or served need not."""
    return not variant.option("offload", False) and not spec_of(variant).served


def keeps(variant: Variant) -> bool:
    """Whether a checkpoint of `variant` is made once and kept: one that was given is there."""
    return spec_of(variant).keeps and variant.checkpoint is None


def loaded_as(variant: Variant, device: str) -> Variant:
    """The variant whose memory `variant` takes while it is evaluated.

    Keys and values are held unpacked whatever they are rounded to, and so are weights whose backend
    says so.
    """
    backend = plugins.load("backends", variant.backend)
    if not backend.SPEC.unpacks:
        return without_cache(variant)
    unpacked: Variant = backend.loaded_as(variant, device)
    return unpacked


def refuse_timing(variant: Variant) -> None:
    """Raise VariantError where decoding `variant` here would time what nobody runs."""
    if spec_of(variant).unpacks:
        raise VariantError(
            f"{variant.label} is unpacked to be evaluated, and another engine runs it: compare"
            " measures its speed there, or serve it and give served@endpoint"
        )
    refuse_simulated(variant)


def libraries(variant: Variant) -> tuple[str, ...]:
    """Names of the distributions that `variant` runs on, beside torch and transformers."""
    backend = plugins.load("backends", variant.backend)
    found: tuple[str, ...] = (
        backend.libraries(variant) if hasattr(backend, "libraries") else backend.SPEC.requires
    )
    return found
