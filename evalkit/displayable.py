"""How results show themselves in notebooks.

The nouns are plain records; what draws them lies above them in the house. So it is found when it
is needed, by name, and a laptop without matplotlib still opens every result.
"""

from __future__ import annotations

import importlib
from typing import Any


class Displayable:
    """A result with a face: a table when printed and in notebooks, charts by short names."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {display().brief(self)}>"

    def __str__(self) -> str:
        return str(display().text(self))

    def _repr_html_(self) -> str:
        return str(display().html(self))

    def table(self) -> Any:
        """The result's table as a styled pandas DataFrame."""
        return display().table(self)

    @property
    def plot(self) -> Any:
        """The result's charts: `result.plot.tradeoff()`; `dir(result.plot)` lists them."""
        return display().Plots(self)


def display() -> Any:
    """The module that draws results: evalkit.view.display."""
    return importlib.import_module("evalkit.view.display")
