"""Layers of a decoder that no method quantizes, by their names."""

from __future__ import annotations

# Routers of mixtures of experts decide with a handful of weights; no method quantizes them.
# The steps of a selective state space are few as well, and read by kernels of the model's own.
ROUTERS = ("router", "gate", "shared_expert_gate", "dt_proj")


def is_router(name: str) -> bool:
    """Whether the module `name` is a router, or another that no method quantizes."""
    return name.rpartition(".")[2] in ROUTERS
