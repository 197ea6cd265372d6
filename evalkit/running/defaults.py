"""What is chosen where nothing was asked for: the model, the variants that can be offloaded."""

from __future__ import annotations

from collections.abc import Sequence

from evalkit.backends import parse_variant, spec_of
from evalkit.errors import UsageError
from evalkit.records import Variant
from evalkit.running.environment import gpu_memory

# Phi-3 Small in 16 bit takes 14.8 GB; cache and activations of scoring need a few more.
PHI_3_SMALL_BYTES = 20e9


def choose_model(asked: str | None, device: str) -> tuple[str, str]:
    """The model's name and, where none was asked for, why this one."""
    if asked is not None:
        return asked, ""
    if device == "cpu":
        return "demo", "Model: the embedded demo, as this machine has no usable CUDA GPU."
    memory = gpu_memory(device)
    if memory >= PHI_3_SMALL_BYTES:
        return "phi-3-small", f"Model: Phi-3 Small, which fits this GPU of {memory / 1e9:.0f} GB."
    return "demo", (
        f"Model: the embedded demo, as Phi-3 Small needs {PHI_3_SMALL_BYTES / 1e9:.0f} GB"
        f" and this GPU has {memory / 1e9:.0f} GB."
    )


def choose_variants(words: Sequence[str], *, offload: bool = False) -> list[Variant]:
    """The variants asked for, with `offload=true` where their backend can and it was asked for.

    Raises UsageError where there is none, or none that can be offloaded.
    """
    if not words:
        raise UsageError("no variant given: name at least one, for example fp16 int8 int4")
    variants = [parse_variant(word) for word in words]
    if not offload:
        return variants
    found = [offloading(variant) for variant in variants]
    if not any(variant.option("offload", False) for variant in found):
        labels = ", ".join(variant.label for variant in variants)
        raise UsageError(f"--offload: {labels} cannot be offloaded; fp32, fp16 and bf16 can")
    return found


def offloading(variant: Variant) -> Variant:
    """The variant with `offload=true`, where its backend can."""
    options = {option.name for option in spec_of(variant).options}
    if "offload" not in options or variant.option("offload", False):
        return variant
    return parse_variant(f"{variant.label},offload=true")


def assign_servers(variants: Sequence[Variant], commands: Sequence[str]) -> list[str]:
    """The `--serve` command of each variant, "" for those that have none, in turn.

    Raises UsageError for more commands than served variants.
    """
    waiting = list(commands)
    found = [waiting.pop(0) if waiting and spec_of(v).served else "" for v in variants]
    if waiting:
        raise UsageError(
            f"--serve {waiting[0]!r} has no variant: name one such as "
            "served@endpoint,url=http://127.0.0.1:8000 for each --serve"
        )
    return found
