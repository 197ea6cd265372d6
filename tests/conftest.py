"""Fixtures all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# In a fresh checkout hypothesis first builds its tables of characters, which takes seconds; how
# long an example takes is not tested but where a test says so.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data and models beside the checkout; tests that need them skip where they are absent."""
    path = Path(__file__).resolve().parents[1] / ".." / "shared"
    if not path.is_dir():
        pytest.skip("../shared is not there")
    return path.resolve()
