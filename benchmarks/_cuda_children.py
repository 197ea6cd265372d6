"""What CUDA says in a child process."""

from __future__ import annotations

import sys
from typing import Any

PACKAGES = ("transformers", "torchao", "bitsandbytes", "gptqmodel", "optimum", "lm_eval", "ray")


def report(job: Any, send: Any) -> dict[str, Any]:
    """Whether this process may use CUDA, and what torch says when it is asked to."""
    import torch

    bad = torch._C._cuda_isInBadFork()
    # Imported before the fork, but in a spawned process not yet.
    import _cuda_preload

    torch.cuda._lazy_init = _cuda_preload.own_initialisation
    try:
        torch.cuda.init()
        says = "initialised"
    except (RuntimeError, AssertionError) as error:
        says = str(error).splitlines()[0]
    return {
        "bad_fork": bad or torch._C._cuda_isInBadFork(),
        "says": says,
        "initialised_before": len(_cuda_preload.touched),
        "imported": [name for name in PACKAGES if name in sys.modules],
    }


def send_report(connection: Any) -> None:
    """The report of a spawned process."""
    connection.send(report(None, None))
