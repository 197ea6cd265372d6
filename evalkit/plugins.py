"""Discovery of backends, metrics, statistics and charts: a file in the folder, or an entry point.

The file's name, or the entry point's, is the plugin's name. Listing reads names only and imports
nothing. Of a backend and of a metric the module is the plugin (its SPEC or SPECS); a statistic and
a chart are the function of the module that has their name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from evalkit.errors import EvalkitError, unknown

# The folder of each group; the entry points of other packages are in the group "evalkit.GROUP".
GROUPS: Mapping[str, str] = {
    "backends": "backends",
    "metrics": "metrics",
    "statistics": "scoring/statistics",
    "charts.comparison": "view/charts/comparison",
    "charts.bench": "view/charts/bench",
    "charts.plan": "view/charts/plan",
    "charts.sensitivity": "view/charts/sensitivity",
    "charts.search": "view/charts/search",
    "charts.answers": "view/charts/answers",
}


def names(group: str) -> list[str]:
    """Names of all plugins of `group`, sorted; nothing is imported."""
    return sorted(_sources(group))


def load(group: str, name: str) -> ModuleType:
    """Import the module of plugin `name` of `group`.

    Raises UsageError with a suggestion if there is none, EvalkitError if two packages have one of
    that name, or the module of another package cannot be imported.
    """
    sources = _sources(group)
    if name not in sources:
        raise unknown(_noun(group), name, sources)
    source = sources[name]
    if theirs := _claims(group, name) - {source}:
        raise EvalkitError(
            f"{_noun(group)} {name!r} is evalkit's own and that of {', '.join(sorted(theirs))}:"
            " rename the entry point there, or uninstall its package"
        )
    try:
        return importlib.import_module(source)
    except ImportError as error:
        if source.startswith("evalkit."):
            raise
        raise EvalkitError(
            f"{_noun(group)} {name!r} cannot be imported from {source} ({error}): mend or uninstall"
            " the package that names it"
        ) from error


def function(group: str, name: str) -> Any:
    """Import the function that is plugin `name` of `group`; raises what `load` raises."""
    module = load(group, name)
    if not hasattr(module, name):
        raise EvalkitError(
            f"{_noun(group)} {name!r}: {module.__name__} has no function {name}; give it the name"
            " of its file or entry point"
        )
    return getattr(module, name)


@cache
def _sources(group: str) -> dict[str, str]:
    """Map plugin name to module path for `group`, a key of GROUPS."""
    folder = GROUPS[group]
    package = f"evalkit.{folder.replace('/', '.')}"
    found = {
        module.name: f"{package}.{module.name}"
        for module in pkgutil.iter_modules([str(Path(__file__).parent / folder)])
        if not module.name.startswith("_")
    }
    for entry in _entry_points().select(group=f"evalkit.{group}"):
        found.setdefault(entry.name, entry.value)
    return found


@cache
def _claims(group: str, name: str) -> set[str]:
    """The modules that other packages give that name."""
    return {entry.value for entry in _entry_points().select(group=f"evalkit.{group}", name=name)}


@cache
def _entry_points() -> Any:
    """The entry points of all installed packages, read once: it takes hundredths of a second."""
    return metadata.entry_points()


def _noun(group: str) -> str:
    """What one plugin of `group` is called: "backend", "chart"."""
    return group.partition(".")[0].removesuffix("s")
