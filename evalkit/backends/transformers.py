"""The model as it is, in 32 or 16 bit, run by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.backends._spec import BackendSpec, check_device
from evalkit.errors import VariantError
from evalkit.records import Variant

if TYPE_CHECKING:
    from evalkit.models.loading import Loaded

SPEC = BackendSpec(
    name="transformers",
    summary="unquantized weights in 32 or 16 bit",
    precisions=("fp32", "fp16", "bf16"),
)
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def check(config: dict[str, Any], variant: Variant) -> None:
    """Raise VariantError for a checkpoint that is already quantized: it has no full weights."""
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method is not None:
        raise VariantError(
            f"the checkpoint is already quantized ({method}), so {variant.text} cannot be made of "
            "it: give --model the original, and this checkpoint's directory as a variant"
        )


def load(
    source: Path,
    variant: Variant,
    device: str,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Loaded:
    """The checkpoint `source` with its weights cast to the variant's precision on `device`."""
    from evalkit.models.loading import Loaded, linear_kernels, load_causal_lm

    check_device(SPEC, device)
    model = load_causal_lm(
        source,
        dtype=DTYPES[variant.precision],
        device=device,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    return Loaded(model, linear_kernels(model))
