"""The nouns of `evalkit batch`: how each cell of a grid ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class CellResult:
    """One run of the notebook; `notebook` and `html` are relative to the batch's folder."""

    name: str
    parameters: dict[str, Any]
    status: Literal["ok", "failed"]
    message: str = ""
    seconds: float = 0.0
    notebook: str = ""
    html: str = ""


@dataclass(frozen=True)
class Batch:
    """All cells of a grid in its order, and the folder with their notebooks and index.html."""

    notebook: str
    folder: Path
    cells: tuple[CellResult, ...]

    @property
    def succeeded(self) -> bool:
        """Whether every cell ran to its end."""
        return all(cell.status == "ok" for cell in self.cells)
