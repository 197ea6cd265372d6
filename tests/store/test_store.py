import json
from pathlib import Path

import pytest

from evalkit.errors import StoreError
from evalkit.records import Comparison, Model, Run, Suite, Variant
from evalkit.records.decomposition import Divergence
from evalkit.records.sensitivity import Piece, Sensitivity
from evalkit.store.store import RUN_SCHEMA, Store, read_comparison, read_sensitivity

RUN = Run("r1", Model("m", "id"), Variant("fp16", "transformers"), Suite("s"), "ok")


def test_save_load_forget(tmp_path: Path) -> None:
    store = Store(tmp_path).prepare()
    assert store.load("r1") is None
    store.save(RUN)
    assert store.load("r1") == RUN
    assert store.runs() == [RUN]
    (store.raw("r1")).mkdir(parents=True)
    store.forget("r1")
    assert store.load("r1") is None and not store.raw("r1").exists()


def test_a_newer_schema_names_the_upgrade_and_leaves_the_store_readable(tmp_path: Path) -> None:
    store = Store(tmp_path).prepare()
    store.save(RUN)
    file = store.run_file("r2")
    file.write_text(json.dumps({"schema": "evalkit.run/999", "run": {}}))
    with pytest.raises(StoreError, match=r"r2\.json has schema.*newer.*pip install --upgrade"):
        store.load("r2")
    assert store.load("r1") == RUN


@pytest.mark.parametrize(
    "content",
    [[], {}, {"schema": 1}, {"schema": "other/1"}, {"schema": RUN_SCHEMA},
     {"schema": RUN_SCHEMA, "run": {"id": 1}}, {"schema": RUN_SCHEMA, "run": [1]},
     {"schema": "evalkit.run/x", "run": {}}],
)  # fmt: skip
def test_a_run_file_of_another_shape_is_one_line(tmp_path: Path, content: object) -> None:
    store = Store(tmp_path).prepare()
    store.run_file("r").parent.mkdir()
    store.run_file("r").write_text(json.dumps(content))
    with pytest.raises(StoreError) as caught:
        store.load("r")
    assert "\n" not in str(caught.value)


def test_a_store_that_is_a_file_or_read_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file; give a directory"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match="a file stands where a directory is needed"):
        Store(tmp_path / "file" / "below").prepare()


def test_comparisons_are_kept_beside_the_runs(tmp_path: Path) -> None:
    comparison = Comparison(RUN.model, RUN.suite, "fp16", "1pp", (), {"perplexity": 0.5})
    file = Store(tmp_path).prepare().save_comparison(comparison, "c1")
    assert read_comparison(file) == comparison


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EVALKIT_HOME", str(tmp_path / "home"))
    assert Store().root == tmp_path / "home"
    monkeypatch.delenv("EVALKIT_HOME")
    assert Store().root == Path.home() / ".cache" / "evalkit"


def test_a_damage_map_is_kept_under_its_id(tmp_path: Path) -> None:
    found = Sensitivity(
        "m", "fp16", "int4", "module", "swap", "swaps", 64, Divergence(0.3, 0.2, 0.4), 0.9, 1e-7,
        (Piece("layers.1.mlp", "mlp", 1, 0.2, 0.1, 0.3, 1.5, 10, 30, ("layers.1.mlp",)),
         Piece("head", "head", None, 0.1, 0.1, 0.1, -0.5, None, None)), id="s1",
    )  # fmt: skip
    assert read_sensitivity(Store(tmp_path).prepare().save_sensitivity(found)) == found
    assert found.piece("layers.1.mlp").damage_per_byte == 0.2 / 30
    assert found.piece("head").damage_per_byte is None
