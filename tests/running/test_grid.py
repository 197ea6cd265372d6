"""GRID.yaml: every combination once, and whatever is wrong in one line before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from notebooks_made import write_notebook

from evalkit.errors import UsageError
from evalkit.running.batch.grid import notebook_parameters, read_grid, shipped_notebooks


def write_grid(folder: Path, text: str) -> Path:
    write_notebook(folder / "note.ipynb")
    file = folder / "grid.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_product_of_the_axes_less_excluded_and_with_included(tmp_path: Path) -> None:
    grid = read_grid(
        write_grid(
            tmp_path,
            """
            notebook: note.ipynb
            grid:
              model: [demo, other/model]
              variants: [[fp16, int8], [fp16, int4]]
            parameters: {limit: 3}
            exclude: [{model: demo, variants: [fp16, int8]}]
            include: [{model: demo, limit: 9}]
            """,
        )
    )
    assert [cell.parameters for cell in grid.cells] == [
        {"limit": 3, "model": "demo", "variants": ["fp16", "int4"]},
        {"limit": 3, "model": "other/model", "variants": ["fp16", "int8"]},
        {"limit": 3, "model": "other/model", "variants": ["fp16", "int4"]},
        {"limit": 9, "model": "demo"},
    ]
    assert grid.takes_out
    names = [cell.name for cell in grid.cells]
    assert len(set(names)) == len(names)
    assert names[1].startswith("model_fp16+int8-")


def test_the_same_cell_asked_for_twice_runs_once(tmp_path: Path) -> None:
    text = "notebook: note\ngrid: {model: [demo, demo]}\ninclude: [{model: demo}]"
    assert len(read_grid(write_grid(tmp_path, text)).cells) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("notebook: note\ngrid: {modl: [demo]}", "did you mean 'model'"),
        ("notebook: note\ngrid: {variants: [[fp16, int9]]}", "did you mean 'int"),
        ("notebook: note\ngird: {model: [demo]}", "did you mean 'grid'"),
        ("notebook: nothing\ngrid: {model: [demo]}", "unknown notebook 'nothing.ipynb'"),
        ("notebook: ../none.ipynb", "unknown notebook '../none.ipynb'"),
        ("grid: {model: [demo]}", "names no notebook"),
        ("notebook: note\ngrid: {out: [a]}", "give the folder with --out"),
        ("notebook: note\ngrid: {model: demo}", "is not a list"),
        ("notebook: note\ngrid: {model: [{a: 1}]}", "neither a plain value"),
        ("notebook: note\ngrid: {model: [a]}\nexclude: [{model: a}]", "has no cell"),
        ("notebook: [", "is not YAML"),
        ("- a\n- b", "is not a mapping"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
        (
            f"notebook: note\ngrid: {{model: {list(range(200))}, limit: {list(range(200))}}}",
            "40000",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = write_grid(tmp_path, text)
    with pytest.raises(UsageError) as error:
        read_grid(file)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_notebook_may_lie_beside_the_folder_of_its_grids(tmp_path: Path) -> None:
    folder = tmp_path / "grids"
    folder.mkdir()
    write_notebook(tmp_path / "elsewhere.ipynb")
    for path in ("../elsewhere.ipynb", str(tmp_path / "elsewhere")):
        grid = folder / "grid.yaml"
        grid.write_text(f"notebook: {path}\ngrid: {{model: [demo]}}", encoding="utf-8")
        assert read_grid(grid).notebook == (tmp_path / "elsewhere.ipynb").resolve()


def test_papermill_can_read_every_line_of_the_shipped_parameters(
    caplog: pytest.LogCaptureFixture,
) -> None:
    translators = pytest.importorskip("papermill.translators")
    nbformat = pytest.importorskip("nbformat")
    for notebook in shipped_notebooks().glob("*.ipynb"):
        for cell in nbformat.read(notebook, 4).cells:
            if "parameters" in cell.metadata.get("tags", ()):
                translators.PythonTranslator.inspect(cell)
    assert "Unable to parse" not in caplog.text


def test_a_notebook_without_a_parameters_cell_is_refused(tmp_path: Path) -> None:
    file = write_grid(tmp_path, "notebook: note\ngrid: {model: [demo]}")
    write_notebook(tmp_path / "note.ipynb", tags=())
    with pytest.raises(UsageError, match="has no parameters cell"):
        read_grid(file)
    (tmp_path / "note.ipynb").write_text(json.dumps({"cells": 3}), encoding="utf-8")
    with pytest.raises(UsageError, match="is not a notebook"):
        read_grid(file)


def test_a_missing_grid_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none\.yaml"):
        read_grid(tmp_path / "none.yaml")


def test_every_shipped_notebook_has_parameters() -> None:
    notebooks = sorted(shipped_notebooks().glob("*.ipynb"))
    assert notebooks
    for notebook in notebooks:
        assert notebook_parameters(notebook)
