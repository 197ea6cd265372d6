"""Parameters that are held packed and unpacked wherever the model's own code reads them.

The experts of a mixture are one parameter of three dimensions, and no linear layer that could be
replaced. Their module keeps its code: a parametrization of torch stands where the parameter was.
What the code reads in one pass of the module is unpacked once and dropped behind it, so that the
matrices of one module at a time are held in floating point.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Unpacking(nn.Module, ABC):
    """How one packed parameter is unpacked; `forward` maps what is stored to weights in `dtype`.

    `method` names how it is packed, `shape` is that of the weights.
    """

    method = ""

    def __init__(self, shape: torch.Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape = shape
        self.dtype = dtype

    @abstractmethod
    def forward(self, stored: Tensor) -> Tensor:
        """The weights in `dtype`."""


def pack(module: nn.Module, name: str, stored: Tensor, unpacking: Unpacking) -> None:
    """Hold the parameter `name` of `module` as `stored`, which `unpacking` unpacks when read."""
    first = not parametrize.is_parametrized(module)
    setattr(module, name, nn.Parameter(stored, requires_grad=False))
    parametrize.register_parametrization(module, name, unpacking, unsafe=True)
    if first:
        vars(module)["forward"] = _once_a_pass(module.forward)


def unpackings(model: nn.Module) -> Iterator[tuple[str, Unpacking]]:
    """Full name of each packed parameter of `model`, and how it is unpacked."""
    for name, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], Unpacking):
            yield name.replace("parametrizations.", ""), module[0]


def unpack_all(model: nn.Module, dtype: torch.dtype) -> bool:
    """Replace packed parameters by plain ones in `dtype`; False where there are none."""
    packed = [(name.rpartition("."), one) for name, one in unpackings(model)]
    for (owner, _, name), unpacking in packed:
        module = model.get_submodule(owner)
        unpacking.dtype = dtype
        weights = getattr(module, name)
        parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        setattr(module, name, nn.Parameter(weights, requires_grad=False))
    return bool(packed)


def _once_a_pass(forward: Callable[..., Any]) -> Callable[..., Any]:
    def cached(*args: Any, **kwargs: Any) -> Any:
        with parametrize.cached():
            return forward(*args, **kwargs)

    return cached
