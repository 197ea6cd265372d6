"""Small notebooks for the tests of batches: they run in a second and need no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PARAMETERS = 'model = "demo"\nvariants = ["fp16", "int8"]\nlimit = 1\nout = ""'


def write_notebook(
    path: Path, code: str = "print(model, limit)", tags: Sequence[str] = ("parameters",)
) -> Path:
    """A notebook with a parameters cell and one cell of `code`."""
    import nbformat
    from nbformat import v4

    first = v4.new_code_cell(PARAMETERS)
    first.metadata["tags"] = list(tags)
    notebook = v4.new_notebook(cells=[first, v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    nbformat.write(notebook, path)
    return path
