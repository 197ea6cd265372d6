"""What makes a card wait for the host, or a captured step wrong: found without a card.

`OnDevice` forbids it: tensors on the device `meta` have no data, so that whatever reads one raises;
what is brought to the device is seen by the dispatcher. `Card` counts it: its tensors say that they
lie on `cuda:0`, have their data in main memory, and every transfer goes through the dispatcher.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

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


_CARD = torch.device("cuda", 0)
# The number of results depends on values.
_DATA_DEPENDENT = ("nonzero", "masked_select", "unique_dim", "_unique2", "repeat_interleave")


class _Tensor(Tensor):
    """A tensor of `Card`: to torch one without data on `meta`, its data in `inner`."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> _Tensor:
        # Views of it are made in any mode.
        with torch.inference_mode(False):
            made = Tensor._make_wrapper_subclass(
                cls,
                inner.shape,
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device="meta",
            )
        made.inner = inner
        return made

    device = property(lambda self: _CARD)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func.name()} of a tensor on the card, outside of the card's mode")


class Card(TorchDispatchMode):
    """A card that computes on the CPU and notes what goes over the bus, by the operation's name.

    `reads` are what the host waits for: values brought to it, and results whose size depends on
    values. `writes` are what is brought to the card; those `queued` were not waited for (from
    pinned memory, non_blocking).
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.writes: list[str] = []
        self.queued: list[str] = []
        # Else torch looks for a driver where a device is named.
        self._patch = patch.object(torch.cuda, "_lazy_init", lambda: None)
        self._pinned: set[int] = set()

    def __enter__(self) -> Any:
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patch.stop()

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        on = [one for one in given if isinstance(one, _Tensor)]
        places: list[torch.device] = []
        inner_args, inner_kwargs = tree_map(
            lambda one: _inside(one, places), (args, dict(kwargs or {}))
        )
        if name in ("_pin_memory", "pin_memory"):
            made = args[0].clone()
            self._pinned.add(made.data_ptr())
            return made
        made = func(*inner_args, **inner_kwargs)
        # A number is on the host.
        here = bool(on) and any(isinstance(one, Tensor) for one in tree_leaves(made))
        if places:
            here = places[-1].type == "cuda"
        elif name == "copy_":
            here = isinstance(args[0], _Tensor)
        self._note(name, given, on, here, (kwargs or {}).get("non_blocking", False))
        if not here:
            return made
        return tree_map(lambda one: _Tensor(one) if type(one) is Tensor else one, made)

    def _note(
        self, name: str, given: list[Tensor], on: list[_Tensor], here: bool, queued: bool
    ) -> None:
        off = [one for one in given if not isinstance(one, _Tensor) and one.ndim]
        if on and (not here or name in _DATA_DEPENDENT):
            self.reads.append(name)
        elif off and here:
            assert not on or name in ("copy_", "index"), f"{name} of tensors here and there"
            pinned = all(one.data_ptr() in self._pinned for one in off)
            (self.queued if queued and pinned else self.writes).append(name)

    def clear(self) -> None:
        """Forget what was noted."""
        for noted in (self.reads, self.writes, self.queued):
            noted.clear()

    @staticmethod
    def take(model: nn.Module) -> None:
        """Move the parameters and buffers of `model` to the card."""
        for module in model.modules():
            for kept in (module._parameters, module._buffers):
                for name, one in kept.items():
                    kept[name] = None if one is None else _Tensor(one.detach())  # type: ignore[assignment]


def _inside(one: Any, places: list[torch.device]) -> Any:
    """`one` as the CPU takes it; devices that are named are added to `places`."""
    if isinstance(one, torch.device):
        places.append(one)
        return torch.device("cpu")
    return one.inner if isinstance(one, _Tensor) else one
