from __future__ import annotations

from pathlib import Path

import pytest
from tiny_checkpoints import make_llama, make_phi


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def phi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phi(tmp_path_factory.mktemp("phi"))
