"""The plugins of docs/extending.md, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
BLOCK = re.compile(r'```python title="(\w+\.py)"\n(.*?)```', re.DOTALL)


def install(folder: Path) -> None:
    """The files as an installed package of their own: modules and entry points."""
    files = dict(BLOCK.findall(GUIDE.read_text(encoding="utf-8")))
    assert set(files) == {"surprises.py", "rounding.py", "rowwise.py"}
    for name, source in files.items():
        (folder / name).write_text(source, encoding="utf-8")
    information = folder / "mine-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[evalkit.metrics]\nsurprises = surprises\n"
        "[evalkit.backends]\nrounding = rounding\nrowwise = rowwise\n"
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The store and the rows of a comparison with everything of the guide installed."""
    folder = tmp_path_factory.mktemp("extending")
    install(folder)
    model = tiny.make_llama(folder / "model")
    text = folder / "text.txt"
    text.write_text(tiny.documents(1, 6), encoding="utf-8")
    done = evalkit_command(
        "compare", "fp16", "int8@rounding", "int4@rounding", "int8@rowwise",
        "--model", str(model), "--text", str(text), "--format", "json",
        "--out", str(folder / "store"),
        path=folder,
    )  # fmt: skip
    rows: list[dict[str, Any]] = json.loads(done)["rows"]
    return folder / "store", rows


def evalkit_command(*words: str, path: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "evalkit", *words],
        env=os.environ | ({"PYTHONPATH": str(path)} if path else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_metric_and_a_backend_of_one_file_each(
    compared: tuple[Path, list[dict[str, Any]]],
) -> None:
    baseline, int8, int4, _ = compared[1]
    assert int4["kernel"] == "Linear (float16) rounded to int4"
    assert 0 <= baseline["metrics"]["surprise_rate"]["value"] <= 1
    damage = [row["metrics"]["kl_divergence_mean"]["value"] for row in (int8, int4)]
    assert 0 < damage[0] < damage[1]


def test_a_backend_names_unpacks_and_labels_its_own_layers(
    compared: tuple[Path, list[dict[str, Any]]],
) -> None:
    store, (baseline, rounded, _, packed) = compared
    assert packed["kernel"] == "RowLinear int8 (float16)"
    # The same grid of values, but for the scales in float16.
    values = [row["metrics"]["perplexity"]["value"] for row in (rounded, packed)]
    assert values[1] == pytest.approx(values[0], rel=1e-3)
    sizes = [row["metrics"]["weight_bytes"]["value"] for row in (baseline, packed)]
    assert sizes[1] < 0.8 * sizes[0]
    # Opened where the backend is not installed.
    opened = evalkit_command("report", "--format", "markdown", "--out", str(store))
    assert "int8 by rows" in opened
    assert "int8 rounding" in opened
    (note,) = (line for line in opened.splitlines() if "the same weights in float32" in line)
    assert "note on every row" in note
    assert "own kernels" not in opened
