"""The heavy libraries, imported once and without touching a GPU.

The forkserver imports this module, so that every child starts with them loaded; the command itself
imports it where it plans. transformers imports torchao where it is installed, and that initialises
CUDA where there is a card: CUDA would refuse every child forked afterwards, and the command would
keep a context on the card that it measures. So CUDA is hidden while this module is imported, and
only then: a library that looks at import is told what a machine without a card tells.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)


def _no_gpu(*_: object) -> int:
    return 0


def _no_cuda() -> NoReturn:
    raise RuntimeError("No CUDA GPUs are available: they are hidden while libraries are imported")


@contextmanager
def hidden_cuda() -> Iterator[None]:
    """Let torch answer as on a machine without a GPU, and touch neither driver nor card.

    `torch.cuda.is_available` and all that needs a context end in one of these three.
    """
    hidden: list[tuple[Any, str, Any]] = [
        (torch.cuda, "device_count", _no_gpu),
        (torch.cuda, "_lazy_init", _no_cuda),
    ]
    # A torch built without CUDA has no such function, and is told apart by that.
    if hasattr(torch._C, "_cuda_getDeviceCount"):
        hidden.append((torch._C, "_cuda_getDeviceCount", _no_gpu))
    own = [getattr(module, name) for module, name, _ in hidden]
    for module, name, stand_in in hidden:
        setattr(module, name, stand_in)
    try:
        yield
    finally:
        for (module, name, _), function in zip(hidden, own, strict=True):
            setattr(module, name, function)


with hidden_cuda():
    import evalkit.models.phi3_small
    import evalkit.running.compare.tasks
    import evalkit.running.compare.worker  # noqa: F401
