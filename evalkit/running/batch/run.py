"""A notebook run once for each cell of a grid, through papermill, each in a process of its own.

A finished cell is its executed notebook under its final name: a batch that was stopped or killed
goes on with the cells that have none. A failed cell does not stop the others.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from evalkit.errors import InterruptedWorkError, UsageError
from evalkit.progress import Event, Listener
from evalkit.records import content_hash
from evalkit.records.batch import Batch, CellResult
from evalkit.running.batch.grid import OUT_PARAMETER, Cell, Grid, read_grid
from evalkit.store.claims import claim
from evalkit.store.files import make_directory, replacing, write_json

INSTALL = "pip install 'evalkit[notebooks]'"
# What a cell is expected to need before the first one has shown it.
FIRST_GUESS_BYTES = 2 * 2**30
POLL_SECONDS = 0.2
_SHOWN = ["text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/plain"]
_PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}<meta http-equiv="Content-Security-Policy" content="default-src 'none';
style-src 'unsafe-inline'; img-src data:; font-src data:">{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
"""
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class _Running:
    """A cell at work: its process, when it began and the most memory it has held."""

    cell: Cell
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)
    peak: int = 0


def run_batch(
    file: Path, out: Path | None, jobs: int, listener: Listener, *, ray: str = ""
) -> Batch:
    """Run the cells of the grid `file` that have not run yet, at most `jobs` at once.

    With `ray` they run on the cluster at that address, as many at once as it has room for.

    Raises UsageError before anything runs; InterruptedWorkError after Ctrl-C, with the finished
    cells kept.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs} is no number of processes: give at least 1")
    grid = read_grid(file)
    _check_papermill()
    folder = make_directory(out or file.resolve().with_suffix(""))
    with claim(folder / ".claim", lambda who: listener(_waiting(who))):
        return _run_missing(grid, folder, jobs, listener, ray)


def _waiting(who: str) -> Event:
    return Event("batch", "", message=f"waiting for {who}, which runs this batch now")


def _run_missing(grid: Grid, folder: Path, jobs: int, listener: Listener, ray: str) -> Batch:
    results = {c.name: r for c in grid.cells if (r := _finished(folder, grid, c)) is not None}
    todo = [cell for cell in grid.cells if cell.name not in results]
    shown = Event("batch", grid.notebook.name, len(results), len(grid.cells), "cells")
    listener(shown)
    with _ended_together() as running:
        ending = (
            _run_on_ray(grid, folder, todo, ray, listener)
            if ray
            else _run(grid, folder, todo, jobs, running)
        )
        for result in ending:
            results[result.name] = result
            shown = replace(shown, done=len(results))
            listener(shown)
            if result.status == "failed":
                listener(Event("batch", "", message=f"{result.name} failed: {result.message}"))
    return Batch(grid.notebook.name, folder, tuple(results[cell.name] for cell in grid.cells))


def _run(
    grid: Grid, folder: Path, todo: Sequence[Cell], jobs: int, running: list[_Running]
) -> Iterator[CellResult]:
    """Start cells while processes and memory allow, and yield their results as they end."""
    waiting = list(todo)
    largest = FIRST_GUESS_BYTES
    while waiting or running:
        if waiting and len(running) < jobs and _room(running, largest):
            running.append(_start(grid, folder, waiting.pop(0)))
        for one in list(running):
            one.peak = max(one.peak, _held(one.process.pid))
            if one.process.poll() is not None:
                running.remove(one)
                largest = max(largest if one.peak == 0 else 0, one.peak)
                yield _ended(grid, folder, one)
        time.sleep(POLL_SECONDS)


def _run_on_ray(
    grid: Grid, folder: Path, todo: Sequence[Cell], address: str, listener: Listener
) -> Iterator[CellResult]:
    from evalkit.running.cluster import run_each

    calls = [(grid, folder, cell) for cell in todo]
    for index, result in run_each(calls, _run_cell, address, listener):
        cell = todo[index]
        if isinstance(result, CellResult):
            yield result
        else:
            yield CellResult(cell.name, cell.parameters, "failed", str(result))


def _run_cell(grid: Grid, folder: Path, cell: Cell) -> CellResult:
    """One cell, on the machine where this is called."""
    with _ended_together() as running:
        running.append(_start(grid, folder, cell))
        running[0].process.wait()
        return _ended(grid, folder, running[0])


def _room(running: Sequence[_Running], largest: int) -> bool:
    """Whether memory is left for one more cell beside what the running ones may still take."""
    if not running:
        return True
    growth = sum(max(0, largest - one.peak) for one in running)
    return psutil.virtual_memory().available >= largest + growth


def _held(pid: int) -> int:
    """Resident bytes of a process and all its children."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(int(one.memory_info().rss) for one in family)
    except psutil.Error:
        return 0


def _start(grid: Grid, folder: Path, cell: Cell) -> _Running:
    parameters = dict(cell.parameters)
    if grid.takes_out:
        parameters[OUT_PARAMETER] = str(folder / "store")
    given = _path(folder, grid, cell, ".parameters.json")
    # papermill reads parameters as YAML, of which JSON is a part.
    write_json(given, parameters)
    command = [
        sys.executable, "-m", "papermill", str(grid.notebook),
        str(_path(folder, grid, cell, ".running.ipynb")), "-f", str(given),
        "--no-progress-bar", "--kernel", "python3", "--cwd", str(Path.cwd()),
    ]  # fmt: skip
    log = _path(folder, grid, cell, ".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    return _Running(cell, process)


def _ended(grid: Grid, folder: Path, one: _Running) -> CellResult:
    written = _path(folder, grid, one.cell, ".running.ipynb")
    log = _path(folder, grid, one.cell, ".log")
    seconds = round(time.monotonic() - one.began, 1)
    succeeded = one.process.returncode == 0
    final = _path(folder, grid, one.cell, ".ipynb" if succeeded else ".failed.ipynb")
    result = CellResult(one.cell.name, one.cell.parameters, "ok", seconds=seconds)
    if not succeeded:
        result = replace(result, status="failed", message=_last_line(log, one.process.returncode))
    if written.exists():
        with replacing(final.with_suffix(".html")) as page:
            page.write_text(notebook_html(written), encoding="utf-8")
        result = replace(result, notebook=final.name, html=final.with_suffix(".html").name)
        written.replace(final)
    for leftover in (log, _path(folder, grid, one.cell, ".parameters.json")):
        leftover.unlink(missing_ok=True)
    if succeeded:
        for leftover in folder.glob(f"{final.stem}.failed.*"):
            leftover.unlink()
        write_json(final.with_suffix(".json"), {"seconds": seconds})
    return result


def _finished(folder: Path, grid: Grid, cell: Cell) -> CellResult | None:
    """The result of a cell that ran before, or None."""
    final = _path(folder, grid, cell, ".ipynb")
    try:
        seconds = float(json.loads(final.with_suffix(".json").read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not final.exists():
        return None
    page = final.with_suffix(".html").name
    return CellResult(cell.name, cell.parameters, "ok", "", seconds, final.name, page)


def _path(folder: Path, grid: Grid, cell: Cell, suffix: str) -> Path:
    """A file of a cell; a notebook that was changed since gives other names, and runs anew."""
    content = content_hash(grid.notebook.read_text(encoding="utf-8"), 8)
    return folder / f"{cell.name}-{content}{suffix}"


def notebook_html(notebook: Path) -> str:
    """An executed notebook as one HTML page that runs no script and fetches nothing.

    Widgets need both, so an output's next best form (a table) is shown instead.
    """
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    shown = Config({"NbConvertBase": {"display_data_priority": _SHOWN}})
    exporter = HTMLExporter(config=shown, raw_template=_PAGE, embed_images=True)
    page, _ = exporter.from_filename(str(notebook))
    return str(page)


def _last_line(log: Path, code: int) -> str:
    """The last line a failed cell printed: the error, without colours."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 2**16))
        text = _ESCAPES.sub("", stream.read().decode("utf-8", "replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else f"its process ended with exit code {code}"


def _check_papermill() -> None:
    from importlib.util import find_spec

    if find_spec("papermill") is None or find_spec("nbconvert") is None:
        raise UsageError(
            f"evalkit batch needs papermill and nbconvert: install them with {INSTALL}"
        )


@contextmanager
def _ended_together() -> Iterator[list[_Running]]:
    """Cells at work; on the way out, also by Ctrl-C, all of them and their kernels are ended."""
    running: list[_Running] = []
    try:
        yield running
    except KeyboardInterrupt:
        raise InterruptedWorkError(
            "batch stopped; finished cells are kept, run the same command again to go on"
        ) from None
    finally:
        for one in running:
            _end(one.process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a papermill process, its kernel and what that started."""
    try:
        family = [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]
    except psutil.Error:
        return
    for member in family:
        try:
            member.terminate()
        except psutil.Error:
            continue
    _, alive = psutil.wait_procs(family, timeout=5)
    for member in alive:
        member.kill()
