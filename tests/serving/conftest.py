"""A small checkpoint, a text, and a server that serves the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
import tiny


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_llama(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("served") / "text.txt"
    file.write_text(tiny.documents(1, 6), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def url(checkpoint: Path) -> Iterator[str]:
    with servers.serving(servers.Completions(checkpoint)) as found:
        yield found
