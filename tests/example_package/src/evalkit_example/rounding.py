"""Round to nearest in groups, kept in 16 bit: what the rounding of int8 and int4 alone costs."""

from __future__ import annotations

from typing import Any

import torch

from evalkit.backends import BackendSpec, Option
from evalkit.models.kernels import kernel_names
from evalkit.models.layers import linear_modules
from evalkit.models.loading import Loaded, load_causal_lm
from evalkit.records import Variant

SPEC = BackendSpec(
    name="rounding",
    summary="rounded to nearest in groups, without calibration, kept in 16 bit",
    precisions=("int8", "int4"),
    options=(Option("group_size", 32, "weights that share a scale", minimum=1, shown=True),),
    simulates=True,
)


def check(checkpoint: Any, variant: Variant) -> None:
    """Every linear layer can be rounded: a last group may be shorter."""


def load(
    source: Any,
    variant: Variant,
    device: str,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Loaded:
    """The model of `source` with the weights of all linear layers rounded."""
    model = load_causal_lm(
        source,
        dtype=torch.float16,
        device=device,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    bits, size = int(variant.precision.removeprefix("int")), int(variant.option("group_size", 32))
    with torch.no_grad():
        for _, layer in linear_modules(model):
            groups = layer.weight.float().split(size, 1)
            layer.weight.copy_(torch.cat([rounded(group, bits) for group in groups], 1))
    return Loaded(model, f"{kernel_names(model)} rounded to {variant.precision}")


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """`weight` (out, group) on a symmetric grid of 2^bits − 1 values a row."""
    highest = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(-1, keepdim=True).clamp_min(1e-12) / highest
    return (weight / scale).round() * scale
