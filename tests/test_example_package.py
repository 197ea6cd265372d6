"""A package outside evalkit, installed and used: backend, statistic, metric, limit and chart."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

SOURCE = Path(__file__).parent / "example_package"
GUIDE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
METRIC = "jensen_shannon_mean"


class Used:
    """A store, and the command line with the example package installed, or `without` it."""

    def __init__(self, folder: Path) -> None:
        self.site, self.store = folder / "site", folder / "store"
        self.model = tiny.make_llama(folder / "model")
        self.text = folder / "text.txt"
        self.text.write_text(tiny.documents(1, 4), encoding="utf-8")
        # The build writes beside what it builds.
        shutil.copytree(SOURCE, folder / "package")
        self._run(
            "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
            "--target", str(self.site), str(folder / "package"),
        )  # fmt: skip

    def __call__(self, *words: str, without: bool = False, status: int = 0) -> str:
        out = () if "--help" in words else ("--out", str(self.store))
        return self._run("evalkit", *words, *out, without=without, status=status)

    def compare(self, *words: str, without: bool = False) -> str:
        source = ("--model", str(self.model), "--text", str(self.text))
        return self(
            "compare", "fp16", "int8@rounding", "int4@rounding", *source, *words, without=without
        )

    def _run(self, module: str, *words: str, without: bool = False, status: int = 0) -> str:
        paths = [os.environ.get("PYTHONPATH", ""), "" if without else str(self.site)]
        done = subprocess.run(
            [sys.executable, "-m", module, *words],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Used:
    return Used(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def rows(used: Used) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(used.compare("--format", "json"))["rows"]
    return found


def test_backend_and_metric_are_in_the_json(rows: list[dict[str, Any]]) -> None:
    baseline, int8, int4 = rows
    assert METRIC not in baseline["metrics"]
    assert int4["resolved"] == "int4@rounding,group_size=32"
    assert int4["kernel"] == "Linear (float16) rounded to int4"
    assert int8["metrics"][METRIC]["unit"] == "nats"
    assert 0 < int8["metrics"][METRIC]["value"] < int4["metrics"][METRIC]["value"]


def test_the_value_is_that_of_the_definition(
    used: Used, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(used.site))
    expected = _jensen_shannon(used)
    assert rows[2]["metrics"][METRIC]["n"] == len(expected)
    assert rows[2]["metrics"][METRIC]["value"] == pytest.approx(expected.mean(), rel=1e-4)


@pytest.mark.slow
def test_the_column_stays_where_the_package_is_not_installed(
    used: Used, rows: list[dict[str, Any]]
) -> None:
    table = used("report", "--format", "table")
    titles = next(line for line in table.splitlines() if "perplexity" in line and "KL" in line)
    assert titles.index("KL") < titles.index("JS") < titles.index("top-1")
    kept = used("report", "--format", "markdown", without=True)
    (line,) = (line for line in kept.splitlines() if "| JS |" in line)
    column = [cell.strip() for cell in line.split("|")].index("JS")
    (int4,) = (line for line in kept.splitlines() if line.startswith("| int4"))
    assert float(int4.split("|")[column]) == pytest.approx(rows[2]["metrics"][METRIC]["value"], 0.1)


def test_the_report_has_the_column_the_definition_and_the_chart(
    used: Used, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    page = used("report")
    assert re.search(r"<th[^>]*>JS</th>", page)
    assert "the Jensen-Shannon divergence of p and q" in page
    assert 'aria-label="Jensen-Shannon divergence from the baseline. 2 variants.' in page
    used("chart", "jensen_shannon", "--file", str(tmp_path / "js.svg"))
    assert "nats a token" in (tmp_path / "js.svg").read_text(encoding="utf-8")
    assert "jensen_shannon" in used("chart", "--help")


def test_the_gate_judges_by_the_new_limit(
    used: Used, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert "Mean Jensen-Shannon divergence, in nats." in used("check", "--help")
    worst = rows[2]["metrics"][METRIC]["high"]
    used("check", "--max-js", str(1.01 * worst))
    assert "max_js" in used("check", "--max-js", str(0.99 * worst), status=1)
    limits = tmp_path / "limits.yaml"
    limits.write_text(f"max_js: {1.01 * worst}\nmax_kl: 10\n", encoding="utf-8")
    used("check", "--limits", str(limits))
    used("check", "--max-js", "1", without=True, status=2)


@pytest.mark.slow
def test_a_metric_installed_later_and_its_new_version_are_measured(
    used: Used, tmp_path: Path
) -> None:
    changed = copy.copy(used)
    changed.site, changed.store = shutil.copytree(used.site, tmp_path / "site"), tmp_path / "store"
    source = ("--model", str(used.model), "--text", str(used.text), "--format", "json")

    def values(**how: Any) -> dict[str, Any]:
        row = json.loads(changed("compare", "fp16", "bf16", *source, **how))["rows"][1]
        return {name: value["value"] for name, value in row["metrics"].items()}

    before = values(without=True)
    first = values()
    file = changed.site / "evalkit_example" / "metrics.py"
    text = file.read_text(encoding="utf-8").replace("version=1", "version=2")
    file.write_text(
        text.replace('statistics["jensen_shannon"]', '2 * statistics["jensen_shannon"]')
    )
    second = values()
    assert METRIC not in before
    assert second[METRIC] == pytest.approx(2 * first[METRIC])
    for metric in ("perplexity", "kl_divergence_mean", "decode_tokens_per_second"):
        assert before[metric] == first[metric] == second[metric]


def test_only_what_the_guide_documents_is_imported() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    for file in SOURCE.rglob("*.py"):
        for module in re.findall(r"^from (evalkit\S*) import", file.read_text("utf-8"), re.M):
            assert f"`{module}`" in guide, f"{file.name} imports {module}"


def _jensen_shannon(used: Used) -> np.ndarray[Any, Any]:
    """½ Σ p ln(p/m) + ½ Σ q ln(q/m) of fp16 and int4@rounding, in float64, from whole passes."""
    import torch
    from evalkit_example import rounding

    from evalkit.models.loading import load_causal_lm
    from evalkit.records import Variant
    from evalkit.texts.windows import Windows

    (file,) = (used.store / "windows").glob("*.npz")
    windows = Windows.load(file)
    baseline = load_causal_lm(used.model, dtype=torch.float16, device="cpu").float()
    variant = Variant("int4", "rounding", (("group_size", 32),))
    rounded = rounding.load(used.model, variant, "cpu").model.float()
    found = []
    for index in range(len(windows)):
        ids = torch.from_numpy(windows.window(index).astype(np.int64))[None]
        first = int(windows.score_from[index]) - 1
        with torch.inference_mode():
            p, q = (
                model(ids).logits[0, first:-1].double().softmax(-1).numpy()
                for model in (baseline, rounded)
            )
        middle = (p + q) / 2
        found.append((p * np.log(p / middle) + q * np.log(q / middle)).sum(-1) / 2)
    return np.concatenate(found)
