"""Which kernels run a model's linear layers, in words; never a silent fallback."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from evalkit.models.layer_format import LayerFormat, format_of
from evalkit.models.layers import linear_modules
from evalkit.models.packed_parameters import unpackings
from evalkit.models.routers import is_router


def kernel_names(model: PreTrainedModel, formats: Sequence[LayerFormat] = ()) -> str:
    """Class, weights and arithmetic of linear layers and packed experts, most frequent first.

    Such as "Linear (float16)", or what one of `formats` says of its layers ("MarlinLinear int4
    g128 (float16)"). Output head and routers are left out.
    """
    counts = Counter(
        _describe(module, model.dtype, formats)
        for name, module in linear_modules(model)
        if not is_router(name)
    )
    counts.update(
        f"{one.method} of experts, unpacked ({dtype_name(one.dtype)})"
        for _, one in unpackings(model)
    )
    return ", ".join(name for name, _ in counts.most_common())


def _describe(module: nn.Module, dtype: torch.dtype, formats: Sequence[LayerFormat]) -> str:
    one = format_of(module, formats)
    if one is not None and one.kernel is not None:
        return one.kernel(module, dtype)
    name = type(module).__name__
    weight = getattr(module, "weight", None)
    if weight is None or type(weight.data) is not torch.Tensor:
        held = "compressed" if weight is None else type(weight.data).__name__
        return f"{name} {held} ({dtype_name(dtype)})"
    return f"{name} ({dtype_name(weight.dtype)})"


def dtype_name(dtype: torch.dtype) -> str:
    """ "float16" for torch.float16."""
    return str(dtype).removeprefix("torch.")
