"""What every quantizing backend checks before it starts and after it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from evalkit.errors import ModelError, VariantError
from evalkit.records import Variant

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evalkit.models.checkpoint import Checkpoint

# Of the weights of the text stack's matrices; what is less is no model of this precision.
LEAST_PACKED = 0.9
INSTEAD = "leave this model in 16 bit (bf16 or fp16)"
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def check_unquantized(checkpoint: Checkpoint, variant: Variant) -> None:
    """Raise VariantError for a checkpoint that is already quantized: it has no full weights."""
    method = (checkpoint.config.get("quantization_config") or {}).get("quant_method")
    if method is not None:
        raise VariantError(
            f"{checkpoint.path} is already quantized ({method}), so {variant.text} cannot be made "
            "of it: give --model the original, and this directory as a variant"
        )


def too_much_left(checkpoint: Checkpoint, variant: Variant) -> str:
    """Why linear layers and experts are too little of the text model; "" where they are enough."""
    from evalkit.models.shapes import unpackable

    try:
        left, share = unpackable(checkpoint)
    except ModelError:
        # An architecture of the checkpoint's own code: its layers are counted once it is loaded.
        return ""
    if share <= 1 - LEAST_PACKED:
        return ""
    largest = max(left, key=lambda name: left[name])
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return (
        f"{variant.text} cannot pack {largest}{more}: no linear layers, and {share:.0%} of the"
        " weights of the text model"
    )


def refuse(checkpoint: Checkpoint, reason: str, *instead: str) -> NoReturn:
    """Raise VariantError with `reason` and the first of the variants `instead` that can be made."""
    from evalkit import plugins
    from evalkit.backends._parse import parse_variant

    for text in instead:
        other = parse_variant(text)
        if not plugins.load("backends", other.backend).problem(checkpoint, other):
            raise VariantError(f"{reason}; use {text}")
    raise VariantError(f"{reason}; {INSTEAD}")


def check_quantized(model: PreTrainedModel, variant: Variant) -> None:
    """Raise VariantError where too much of the text stack is still in floating point.

    A layer that the method cannot take may stay, if it is small; `kept_16bit` names it.
    """
    from evalkit.models.layers import packed_share
    from evalkit.models.text_stack import full_matrices

    share = packed_share(model)
    if share >= LEAST_PACKED:
        return
    left = full_matrices(model)
    largest = max(left, key=lambda name: left[name].numel())
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    raise VariantError(
        f"{variant.text} leaves {largest}{more} unquantized, {1 - share:.0%} of the weights of the"
        f" text model: {variant.backend} has no kernel for them; {INSTEAD}"
    )
