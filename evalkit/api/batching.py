"""Running a notebook over a grid of parameters."""

from __future__ import annotations

from pathlib import Path

from evalkit.progress import Listener, live
from evalkit.records.batch import Batch


def batch(
    grid: Path | str,
    *,
    out: Path | str | None = None,
    jobs: int = 1,
    ray: str = "",
    progress: Listener | None = None,
) -> Batch:
    """Run the notebook of `grid` (a YAML file) through papermill, once for each of its cells.

    Executed notebooks, their HTML pages and an index.html go to `out`, by default a folder beside
    the grid with its name; what the notebooks measure goes to the store `out`/store that all cells
    share. Cells that ran before are not run again. At most `jobs` cells run at once, fewer where
    memory does not allow. With `ray` they run on the Ray cluster at that address ("local" starts
    one here), which must see the folder under the same path.

    Raises UsageError in one line, before anything runs, for what is wrong with the grid.
    """
    from evalkit.running.batch.run import run_batch
    from evalkit.store.files import replacing
    from evalkit.view import render

    place = None if out is None else Path(out)
    if progress is None:
        with live() as listener:
            done = run_batch(Path(grid), place, jobs, listener, ray=ray)
    else:
        done = run_batch(Path(grid), place, jobs, progress, ray=ray)
    with replacing(done.folder / "index.html") as page:
        page.write_text(render(done, "html"), encoding="utf-8")
    return done
