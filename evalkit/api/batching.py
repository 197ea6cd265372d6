"""Running a notebook over a grid of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from evalkit.declaration import documented, resolved
from evalkit.options import BatchOptions
from evalkit.progress import Listener, listening
from evalkit.records.batch import Batch


@documented(BatchOptions)
def batch(
    grid: Path | str, *, progress: Listener | None = None, **options: Unpack[BatchOptions]
) -> Batch:
    """Run the notebook of `grid` (a YAML file) through papermill, once for each of its cells.

    Executed notebooks, their HTML pages and an index.html go to `out`; what the notebooks measure
    goes to the store `out`/store that all cells share. Cells that ran before are not run again.
    Fewer than `jobs` cells run at once where memory does not allow more. A Ray cluster must see
    the folder under the same path.

    Raises UsageError in one line, before anything runs, for what is wrong with the grid.
    """
    from evalkit.running.batch.run import run_batch
    from evalkit.store.files import replacing
    from evalkit.view import render

    given = resolved(BatchOptions, options)
    place = None if given["out"] is None else Path(given["out"])
    with listening(progress) as listener:
        done = run_batch(Path(grid), place, given["jobs"], listener, ray=given["ray"])
    with replacing(done.folder / "index.html") as page:
        page.write_text(render(done, "html"), encoding="utf-8")
    return done
