"""evalkit batch: cells run through papermill, failures stay alone, finished cells stay finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from notebooks_made import write_notebook

import evalkit
from evalkit.progress import ignore
from evalkit.running.batch.run import notebook_html

CODE = """
from pathlib import Path
Path(out).mkdir(parents=True, exist_ok=True)
(Path(out) / f"ran-{model}-{limit}").touch(exist_ok=False)
if model == "bad" and not Path("mended").exists():
    raise ValueError("<script>alert(1)</script> is no model")
print("model", model)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_notebook(tmp_path / "note.ipynb", CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_failed_cell_leaves_the_others_alone_and_runs_again_alone(folder: Path) -> None:
    grid = folder / "grid.yaml"
    grid.write_text("notebook: note\ngrid: {model: [good, bad]}\nparameters: {limit: 2}")
    first = evalkit.batch(grid, jobs=2, progress=ignore)
    assert [cell.status for cell in first.cells] == ["ok", "failed"]
    assert not first.succeeded
    assert first.folder == folder / "grid"
    assert "is no model" in first.cells[1].message
    page = (first.folder / "index.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    for cell in first.cells:
        assert (first.folder / cell.notebook).is_file()
        assert (first.folder / cell.html).is_file()

    # A cell that ran is not run again: it would fail, as its mark exists.
    (folder / "mended").touch()
    (first.folder / "store" / "ran-bad-2").unlink()
    second = evalkit.batch(grid, progress=ignore)
    assert second.succeeded
    assert sorted(path.name for path in first.folder.glob("*")) == sorted(
        ["index.html", "store"]
        + [
            f"{Path(cell.notebook).stem}{end}"
            for cell in second.cells
            for end in (".html", ".ipynb", ".json")
        ]
    )


def test_an_interrupted_batch_ends_its_kernels_and_goes_on(folder: Path) -> None:
    write_notebook(
        folder / "note.ipynb",
        "from pathlib import Path\nPath(f'at-{limit}').touch()\nimport time\n"
        "while not Path('go').exists():\n    time.sleep(0.05)",
    )
    grid = folder / "grid.yaml"
    grid.write_text("notebook: note\ngrid: {limit: [1]}")
    command = [sys.executable, "-m", "evalkit", "batch", "grid.yaml"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a shell inherit that it ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 60
    while not (folder / "at-1").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on" in errors
    assert "Traceback" not in errors
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    (folder / "go").touch()
    assert evalkit.batch(grid, progress=ignore).succeeded


def test_too_many_processes_are_a_usage_error(folder: Path) -> None:
    (folder / "grid.yaml").write_text("notebook: note\ngrid: {limit: [1]}")
    with pytest.raises(evalkit.EvalkitError, match="--jobs 0"):
        evalkit.batch(folder / "grid.yaml", jobs=0, progress=ignore)


def test_a_page_fetches_nothing(tmp_path: Path) -> None:
    page = notebook_html(write_notebook(tmp_path / "note.ipynb"))
    assert "default-src 'none'" in page
    for word in ("<script", "cdnjs", "unpkg", "<link"):
        assert word not in page
