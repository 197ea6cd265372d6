"""Fixtures all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data and models beside the checkout; tests that need them skip where they are absent."""
    path = Path(__file__).resolve().parents[1] / ".." / "shared"
    if not path.is_dir():
        pytest.skip("../shared is not there")
    return path.resolve()
