"""Which modules a kernel multiplies at once, so that one format must hold them all.

Served engines join the projections of queries, keys and values into one matrix, and those of gate
and up; the experts of a layer run in one kernel. Their parts are told by their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# The name under which an engine looks for the format of the joined matrix, and its parts.
FUSED: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_EXPERTS = re.compile(r"(.*\.experts)\.\d+\.")
_JOINED = {part: joined for joined, parts in FUSED.items() for part in parts}


def fused_name(module: str) -> str:
    """What `module` is called once a kernel has joined it with its neighbours; itself for most."""
    if found := _EXPERTS.match(module):
        return found[1]
    parent, dot, last = module.rpartition(".")
    return f"{parent}{dot}{_JOINED.get(last, last)}"


def fused_groups(modules: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Modules by the name of what they are joined into, in the order in which they come."""
    groups: dict[str, list[str]] = {}
    for module in modules:
        groups.setdefault(fused_name(module), []).append(module)
    return {name: tuple(parts) for name, parts in groups.items()}
