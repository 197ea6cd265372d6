"""Fixtures of the task tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def task_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where lm-eval's index is kept during this test session: building it takes seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def registry_home(task_index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the tests' own, and no data folder from the environment."""
    monkeypatch.setenv("EVALKIT_HOME", str(task_index))
    monkeypatch.delenv("EVALKIT_DATA", raising=False)
    return task_index
