"""Where a model's numbers end: the first layer whose output is no finite number.

A model that was trained in bfloat16 may hold values beyond 65,504, where float16 is infinite.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class _FoundError(Exception):
    """A module gave what is not finite; the rest need not run."""


def first_not_finite(model: nn.Module, ids: Tensor) -> str:
    """Name of the first module whose output is not finite as `model` reads `ids` (1, length).

    Modules are seen in the order in which they end, so a layer comes before the block around it,
    and a block is named where the sum of its layers is too large. "" where all are finite.
    """
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = (leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
            if any(t.is_floating_point() and not bool(t.isfinite().all()) for t in tensors):
                found.append(name or type(module).__name__)
                raise _FoundError

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules()]
    try:
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False)
    except _FoundError:
        pass
    finally:
        for one in hooks:
            one.remove()
    return found[0] if found else ""


def not_finite_words(where: str) -> str:
    """What to say of numbers that are not finite, and of where they begin."""
    place = f", first in {where}," if where else ","
    return f"float16 overflows in this model{place} or its weights are damaged; use bf16 or fp32"
