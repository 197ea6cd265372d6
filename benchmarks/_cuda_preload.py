"""The libraries of a forkserver, imported when this is: with CUDA hidden from them, or not.

Environment: CUDA_WHEEL_IMPORTS, modules separated by commas; CUDA_WHEEL_HIDDEN, "1" to hide CUDA
as evalkit does; CUDA_WHEEL_CARD, "1" to answer for a card that is not there.
"""

from __future__ import annotations

import importlib
import os
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from _card import CAPABILITY, PROPERTIES

# What would have initialised CUDA on a machine with a card.
touched: list[str] = []


def answer_for_a_card() -> None:
    """From here on torch says that there is one card; counting still asks the driver."""
    own = torch._C._cuda_getDeviceCount

    def count() -> int:
        own()
        return 1

    def initialised() -> None:
        touched.append("_lazy_init")

    def properties(*_: Any) -> SimpleNamespace:
        initialised()
        return PROPERTIES

    torch._C._cuda_getDeviceCount = count
    torch._C._cuda_getDevice = lambda: 0
    torch.cuda._lazy_init = initialised
    torch.cuda.get_device_properties = properties
    torch.cuda.get_device_capability = lambda *_: (properties().major, CAPABILITY[1])


def import_all() -> None:
    """Import what the environment names, hidden or not."""
    hidden: Any = nullcontext()
    if os.environ.get("CUDA_WHEEL_HIDDEN"):
        from evalkit.running.preload import hidden_cuda

        hidden = hidden_cuda()
    with hidden:
        for name in filter(None, os.environ.get("CUDA_WHEEL_IMPORTS", "").split(",")):
            importlib.import_module(name)


own_initialisation = torch.cuda._lazy_init
if os.environ.get("CUDA_WHEEL_CARD"):
    answer_for_a_card()
import_all()
