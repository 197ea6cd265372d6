"""The two plugins of docs/extending.md, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import tiny

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
BLOCK = re.compile(r'```python title="(\w+\.py)"\n(.*?)```', re.DOTALL)


def install(folder: Path) -> None:
    """Both files as an installed package of their own: modules and entry points."""
    files = dict(BLOCK.findall(GUIDE.read_text(encoding="utf-8")))
    assert set(files) == {"surprises.py", "rounding.py"}
    for name, source in files.items():
        (folder / name).write_text(source, encoding="utf-8")
    information = folder / "mine-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[evalkit.metrics]\nsurprises = surprises\n[evalkit.backends]\nrounding = rounding\n"
    )


def test_a_metric_and_a_backend_of_one_file_each(tmp_path: Path) -> None:
    install(tmp_path)
    model = tiny.make_llama(tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text(tiny.documents(1, 6), encoding="utf-8")
    command = [
        sys.executable, "-m", "evalkit", "compare", "fp16", "int8@rounding", "int4@rounding",
        "--model", str(model), "--text", str(text), "--format", "json",
        "--out", str(tmp_path / "store"),
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    baseline, int8, int4 = json.loads(done.stdout)["rows"]
    assert int4["kernel"] == "Linear (float16) rounded to int4"
    assert 0 <= baseline["metrics"]["surprise_rate"]["value"] <= 1
    damage = [row["metrics"]["kl_divergence_mean"]["value"] for row in (int8, int4)]
    assert 0 < damage[0] < damage[1]
