"""Fixtures all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from evalkit.declaration import declared
from evalkit.options import CompareOptions

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


@pytest.fixture(autouse=True, scope="session")
def _short_speeds() -> None:
    """No test judges how fast this machine is: a second for the speed of each variant."""
    object.__setattr__(declared(CompareOptions)["speed_seconds"].option, "default", 1.0)


# Files whose tests start many processes of their own: begun first, so that no worker ends with
# one of them while the others wait.
LONG = ("test_notebooks.py", "test_example_package.py", "test_kills.py", "test_checks.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files; all else stays in its order."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
