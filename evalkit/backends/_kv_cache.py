"""The KV cache of a variant: an option of every backend that loads models here.

No packed cache runs: keys and values are quantized and unpacked as they enter the cache, which
shows what that costs in quality. Nothing of it is in a checkpoint.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from evalkit.analysis.cache_formats import FORMATS, CacheFormat
from evalkit.backends._spec import KV_CACHE, KV_ROTATION
from evalkit.errors import VariantError
from evalkit.records import Variant

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from evalkit.models.checkpoint import Checkpoint
    from evalkit.models.loading import Loaded

# Why the speed and memory of such a variant are not measured.
SIMULATED = "simulated for quality"


def cache_format(variant: Variant) -> CacheFormat | None:
    """The format in which `variant` holds keys and values; None for that of its arithmetic."""
    return FORMATS.get(str(variant.option(KV_CACHE.name, KV_CACHE.default)))


def without_cache(variant: Variant) -> Variant:
    """`variant` as its weights alone, which are the same whatever the cache."""
    names = (KV_CACHE.name, KV_ROTATION.name)
    options = tuple(one for one in variant.options if one[0] not in names)
    return dataclasses.replace(variant, options=options)


def cache_words(variant: Variant) -> str:
    """What a label says of the cache: "KV int4", "KV int4 hadamard"; "" for an unquantized one."""
    cache = cache_format(variant)
    if cache is None:
        return ""
    return f"KV {cache.name} hadamard" if _rotates(variant) else f"KV {cache.name}"


def check_cache(checkpoint: Checkpoint, variant: Variant) -> None:
    """Raise VariantError where the cache cannot be quantized as asked.

    What only the loaded model tells is refused then; see `evalkit.models.kv_cache`.
    """
    cache = cache_format(variant)
    if cache is None:
        if _rotates(variant):
            raise VariantError(
                f"{variant.text}: {KV_ROTATION.name} turns what is quantized, and the KV cache is"
                f" not: add {KV_CACHE.name}=int4"
            )
        return
    config = checkpoint.config
    if any(own.get("kv_lora_rank") for own in (config, config.get("text_config") or {})):
        raise VariantError(
            f"{variant.text}: {KV_CACHE.name} quantizes keys and values, and"
            f" {checkpoint.architecture} caches latents (MLA), of which they are made; leave it out"
        )


def refuse_simulated(variant: Variant) -> None:
    """Raise VariantError where the KV cache is simulated: there is nothing to time."""
    if cache_format(variant) is not None:
        raise VariantError(
            f"{variant.label}: speed and memory are not measured, as its KV cache is {SIMULATED};"
            f" time its weights as {without_cache(variant).text}, or an engine's own cache as"
            " served@endpoint"
        )


def with_quantized_cache(loaded: Loaded, variant: Variant) -> Loaded:
    """`loaded` as it attends with the variant's KV cache, also where it is loaded again."""
    cache = cache_format(variant)
    if cache is None:
        return loaded
    from evalkit.models.kv_cache import quantize_kv_cache

    def quantize(model: PreTrainedModel) -> PreTrainedModel:
        quantize_kv_cache(model, cache, rotates=_rotates(variant))
        return model

    def again(load: Callable[[], PreTrainedModel] | None) -> Callable[[], PreTrainedModel] | None:
        return None if load is None else lambda: quantize(load())

    note = (
        f"the KV cache is {SIMULATED}: keys and values are quantized as they enter it, and no"
        " packed cache runs"
    )
    return dataclasses.replace(
        loaded,
        model=quantize(loaded.model),
        notes=(*loaded.notes, note),
        reload=again(loaded.reload),
        unpackable=again(loaded.unpackable),
    )


def _rotates(variant: Variant) -> bool:
    return variant.option(KV_ROTATION.name, KV_ROTATION.default) == "hadamard"
