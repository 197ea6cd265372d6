"""What every quantizing backend checks before it starts and after it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.errors import VariantError
from evalkit.records import Variant

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evalkit.models.resolve import Checkpoint

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def check_unquantized(checkpoint: Checkpoint, variant: Variant) -> None:
    """Raise VariantError for a checkpoint that is already quantized: it has no full weights."""
    method = (checkpoint.config.get("quantization_config") or {}).get("quant_method")
    if method is not None:
        raise VariantError(
            f"{checkpoint.path} is already quantized ({method}), so {variant.text} cannot be made "
            "of it: give --model the original, and this directory as a variant"
        )


def check_all_quantized(model: PreTrainedModel, variant: Variant, alternative: str) -> None:
    """Raise VariantError where a layer of the decoder is still in floating point."""
    from evalkit.models.layers import unquantized_layers

    left = unquantized_layers(model)
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise VariantError(
            f"{variant.text} leaves {left[0]}{more} unquantized: {variant.backend} has no kernel "
            f"for it; use {alternative}"
        )
