"""The shipped notebooks, executed by papermill on the demo model with one store."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from evalkit.running.batch.grid import notebook_parameters, shipped_notebooks

SMALL = {"limit": 12}
SHORT = {"speed_seconds": 1.0}
BENCH = {
    "batch_sizes": [1, 2], "prompt": 16, "generate": 4, "rounds": 1, "soak": 1,
}  # fmt: skip
PARAMETERS: dict[str, dict[str, Any]] = {
    "01_quickstart": SMALL | SHORT,
    "02_compare": SMALL | SHORT,
    "03_tradeoffs": SMALL | SHORT | {"variants": ["fp16", "int8", "int4", "int4@bitsandbytes"]},
    "04_where_it_hurts": SMALL | SHORT,
    "05_plan_and_speed": BENCH | {"variants": ["fp16", "int8"], "contexts": [64]},
    "06_phi3_small_4090": BENCH | SMALL
    | {"model": "demo", "suite": "demo", "variants": ["fp16", "int8"]},
    "07_would_i_notice": SMALL | {"generate": 12, "variants": ["fp16", "int4@bitsandbytes"]},
}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook-store")


def execute(name: str, out: Path, parameters: dict[str, Any]) -> Any:
    papermill = pytest.importorskip("papermill")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        papermill.execute_notebook(
            str(shipped_notebooks() / f"{name}.ipynb"),
            str(out),
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
        )
    return nbformat.read(out, as_version=4)


def outputs(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        yield from cell.get("outputs", ())


def check(notebook: Any) -> None:
    """No error, nothing on stderr, no warning in any text."""
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.get("text")
        shown = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        assert "Warning" not in shown


def test_every_notebook_is_run_here() -> None:
    assert sorted(PARAMETERS) == sorted(p.stem for p in shipped_notebooks().glob("*.ipynb"))


# The third's calls are those of the second with another variant, the last one's those of the second
# and the fifth.
LONG = ("03_tradeoffs", "06_phi3_small_4090")


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[pytest.mark.slow] if one in LONG else []) for one in PARAMETERS],
)
def test_a_notebook_runs_without_error_or_warning(name: str, store: Path, tmp_path: Path) -> None:
    given = PARAMETERS[name] | {"out": str(store)}
    assert set(given) <= set(notebook_parameters(shipped_notebooks() / f"{name}.ipynb"))
    notebook = execute(name, tmp_path / "out.ipynb", given)
    check(notebook)
    kinds = [kind for output in outputs(notebook) for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 1
    assert kinds.count("text/html") >= 1


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_notebook_is_committed_without_outputs(name: str) -> None:
    notebook = nbformat.read(shipped_notebooks() / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not list(outputs(notebook))
    assert all(cell.get("execution_count") is None for cell in notebook.cells)
    assert len(notebook_parameters(shipped_notebooks() / f"{name}.ipynb")) >= 2


@pytest.mark.slow
def test_another_model_and_text(shared: Path, store: Path, tmp_path: Path) -> None:
    notebook = execute(
        "02_compare",
        tmp_path / "out.ipynb",
        {
            "model": str(shared / "models" / "stories260k"),
            "variants": ["fp32", "fp16"],
            "texts": [str(shared / "data" / "text" / "tinystories_1000.txt")],
            "limit": 10,
            "speed_seconds": 1.0,
            "out": str(store),
        },
    )
    check(notebook)
