"""A card that is not there: what torch asks of CUDA is recorded and answered as by one card.

Imported before anything else in a process, the forkserver included.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

# What reached the driver, in order.
touched: list[str] = []
# Packages that asked whether there is a card.
asked: set[str] = set()

# Packages that are imported where they are installed, by evalkit or by transformers.
OPTIONAL = (
    "accelerate", "bitsandbytes", "datasets", "gptqmodel", "lm_eval", "optimum", "ray", "torchao",
    "transformers",
)  # fmt: skip

_is_available = torch.cuda.is_available


def _device_count(*_: object) -> int:
    touched.append("device_count")
    return 1


def _lazy_init() -> None:
    touched.append("_lazy_init")


def _available() -> bool:
    frame = sys._getframe(1)
    asked.add(frame.f_globals["__name__"].partition(".")[0])
    return _is_available()


# torch's CPU build lacks both; the second is imported where the first is found.
setattr(torch._C, "_cuda_getDeviceCount", _device_count)  # noqa: B010
setattr(torch._C, "_cuda_getCurrentRawStream", _device_count)  # noqa: B010
torch.cuda.device_count = _device_count
torch.cuda._lazy_init = _lazy_init
torch.cuda.is_available = _available


def report(job: Any, send: Any) -> dict[str, Any]:
    """What was touched before this process began, and what CUDA answers in it."""
    before, packages = list(touched), sorted(asked)
    available = torch.cuda.is_available()
    torch.cuda._lazy_init()
    return {
        "before": before,
        "asked": packages,
        "available": available,
        "count": torch.cuda.device_count(),
        "after": touched[len(before) :],
        "imported": [name for name in OPTIONAL if name in sys.modules],
    }
