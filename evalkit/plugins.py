"""Discovery of backends and metrics: a file in the folder, or an entry point, is the registration.

The file name is the plugin's name. Listing reads names only and imports nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

from evalkit.errors import unknown

GROUPS = ("backends", "metrics")


@cache
def _sources(group: str) -> dict[str, str]:
    """Map plugin name to module path for `group` ("backends" or "metrics")."""
    folder = Path(__file__).parent / group
    found = {
        module.name: f"evalkit.{group}.{module.name}"
        for module in pkgutil.iter_modules([str(folder)])
        if not module.name.startswith("_")
    }
    for entry in metadata.entry_points(group=f"evalkit.{group}"):
        found.setdefault(entry.name, entry.value)
    return found


def names(group: str) -> list[str]:
    """Names of all plugins of `group`, sorted; nothing is imported."""
    return sorted(_sources(group))


def load(group: str, name: str) -> ModuleType:
    """Import plugin `name` of `group`; raises UsageError with a suggestion if there is none."""
    sources = _sources(group)
    if name not in sources:
        raise unknown(group.removesuffix("s"), name, sources)
    return importlib.import_module(sources[name])
