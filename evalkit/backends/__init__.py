"""How a variant is made and loaded: one file a backend, the file name is its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit import plugins
from evalkit.backends._checks import LEAST_PACKED
from evalkit.backends._kernels import Capability, KernelChoice, kernel_for, missing_tools
from evalkit.backends._ladder import next_method, settled
from evalkit.backends._parse import BARE, parse_variant, spec_of
from evalkit.backends._spec import (
    BackendSpec,
    Option,
    check_device,
    check_installed,
    method_label,
    resolved_options,
)
from evalkit.records import Variant

if TYPE_CHECKING:
    from evalkit.models.loading import Loaded

__all__ = [
    "BARE",
    "LEAST_PACKED",
    "BackendSpec",
    "Capability",
    "KernelChoice",
    "Option",
    "check_device",
    "check_installed",
    "for_scoring",
    "keeps",
    "kernel_for",
    "label",
    "libraries",
    "loaded_as",
    "method_label",
    "missing_tools",
    "next_method",
    "parse_variant",
    "resolved_options",
    "run_settings",
    "settled",
    "spec_of",
    "timed_elsewhere",
]


def label(variant: Variant) -> str:
    """What tables and charts call `variant`, in its backend's words: "int8 LLM.int8()"."""
    backend = plugins.load("backends", variant.backend)
    if hasattr(backend, "label"):
        return str(backend.label(variant))
    return method_label(variant, variant.backend)


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
    """The variant whose memory `variant` takes while it is evaluated: itself where none unpacks."""
    backend = plugins.load("backends", variant.backend)
    if not backend.SPEC.unpacks:
        return variant
    unpacked: Variant = backend.loaded_as(variant, device)
    return unpacked


def timed_elsewhere(variant: Variant) -> str:
    """Why decoding `variant` here would time what nobody runs; "" where it would not."""
    if not spec_of(variant).unpacks:
        return ""
    return (
        f"{variant.label} is unpacked to be evaluated, and another engine runs it: compare measures"
        " its speed there, or serve it and give served@endpoint"
    )


def libraries(variant: Variant) -> tuple[str, ...]:
    """Names of the distributions that `variant` runs on, beside torch and transformers."""
    backend = plugins.load("backends", variant.backend)
    found: tuple[str, ...] = (
        backend.libraries(variant) if hasattr(backend, "libraries") else backend.SPEC.requires
    )
    return found
