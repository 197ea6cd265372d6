"""What `make` runs, read from its dry run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _commands(target: str) -> str:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    dry_run = ["make", "--dry-run", "--directory", str(ROOT), target]
    return subprocess.run(dry_run, capture_output=True, text=True, check=True).stdout


def test_compare_is_the_embedded_demo_whatever_card_there_is() -> None:
    """Without a model, a card of 20 GB goes for 14.8 GB of Phi-3 Small."""
    assert "evalkit compare fp16 int8 int4 --model demo" in _commands("compare")


def test_coverage_is_a_target_of_its_own() -> None:
    assert "coverage report" in _commands("coverage")
    assert "coverage" not in _commands("test")
