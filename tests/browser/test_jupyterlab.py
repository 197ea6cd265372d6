"""JupyterLab itself, in a browser: open 01_quickstart, run all, see charts and table."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser.conftest import Watched

from evalkit.running.batch.grid import shipped_notebooks

NOTEBOOK = "01_quickstart.ipynb"
TOKEN = "for-this-test-only"
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
RUN_SECONDS = 900


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address and its folder."""

    url: str
    folder: Path

    def get(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.url}{path}?token={TOKEN}")
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    # The whole demo takes minutes; what is looked at here is the page.
    notebook = (shipped_notebooks() / NOTEBOOK).read_text(encoding="utf-8")
    assert "limit = None" in notebook
    (folder / NOTEBOOK).write_text(notebook.replace("limit = None", "limit = 12"), encoding="utf-8")
    settings = folder / ".settings" / "@jupyterlab"
    for name, content in SETTINGS.items():
        file = settings / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={TOKEN}",
    ]  # fmt: skip
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(settings.parent),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"),
        "EVALKIT_HOME": str(folder / "store"),
    }
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    opened = Lab(f"http://127.0.0.1:{port}", folder)
    try:
        _wait_for(lambda: opened.get("/api/status"), 60)
        yield opened
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(ask: Any, seconds: float, sleep: Any = time.sleep) -> Any:
    """What `ask` returns once it is true; `sleep` lets a page go on meanwhile."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := ask():
                return found
        except OSError:
            pass
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        sleep(0.5)


def test_quickstart_runs_and_shows_charts_and_table(
    lab: Lab, watched: Watched, screenshots: Path
) -> None:
    page = watched.page

    def browse(seconds: float) -> None:
        page.wait_for_timeout(1000 * seconds)

    page.goto(f"{lab.url}/lab/tree/{NOTEBOOK}?token={TOKEN}")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    _wait_for(lambda: lab.get("/api/kernels"), 60, browse)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    last = page.locator(".jp-CodeCell").last.locator(".jp-InputPrompt")
    _wait_for(lambda: last.inner_text().strip("[]: ").isdigit(), RUN_SECONDS, browse)

    assert page.locator('.jp-OutputArea [data-mime-type*="error"]').count() == 0
    tables = page.locator(".jp-OutputArea table")
    charts = page.locator(".jp-OutputArea img, .jp-OutputArea svg")
    assert tables.count() >= 1
    assert charts.count() >= 1
    for name, place in (("table", tables.first), ("chart", charts.last)):
        place.scroll_into_view_if_needed()
        assert place.is_visible()
        page.screenshot(path=screenshots / f"jupyterlab-{name}.png")
    assert watched.left == []
