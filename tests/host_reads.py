"""What would make a card wait for the host, or a captured step wrong: found without a card.

Tensors on the device `meta` have no data, so that whatever reads one raises; what is brought to
the device is seen by the dispatcher.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The result depends on values, or was made of Python data.
_FORBIDDEN = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "lift_fresh", "equal")


class OnDevice(TorchDispatchMode):
    """Raises AssertionError where an operation needs the host, or data from it."""

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        assert name not in _FORBIDDEN, f"{func.name()} needs the host"
        given = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)]
        places = {one.device.type for one in given}
        made = func(*args, **(kwargs or {}))
        places |= {one.device.type for one in tree_leaves(made) if isinstance(one, Tensor)}
        assert len(places) <= 1, f"{func.name()} copies between {places}"
        return made
