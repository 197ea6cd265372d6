"""The recorded time of Phi-3 Small on a 4090 is what the product's functions say today."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evalkit.texts.presets import load_preset

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    file = ROOT / "benchmarks" / "results" / "expected-time-rtx-4090.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def test_the_recorded_time_is_that_of_the_functions_of_a_dry_run(
    recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import expected_time

    made = expected_time.expect(recorded["counts"], "rtx-4090")
    assert made["seconds"] == pytest.approx(recorded["seconds"])
    for row, other in zip(made["rows"], recorded["rows"], strict=True):
        assert row["steps"] == pytest.approx(other["steps"])
    sizes = recorded["counts"]["sizes"]
    # All parameters of the 8k model but its tied embedding.
    assert sizes["body"] == 7_392_272_384 - 100_352 * 4_096
    assert set(recorded["counts"]["tasks"]) == {t.name for t in load_preset("standard").tasks}


def test_the_readme_says_that_time(recorded: dict[str, Any]) -> None:
    minutes = round(recorded["seconds"] / 60)
    for name in ("README.md", "docs/gpu.md"):
        text = re.sub(r"\s+", " ", (ROOT / name).read_text(encoding="utf-8"))
        assert f"{minutes} minutes" in text
