import json
import os
from pathlib import Path

import numpy as np
import pytest

from evalkit.errors import StoreError
from evalkit.store.files import read_json, read_parquet, replacing, write_json, write_parquet


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"x": 1})
    with pytest.raises(RuntimeError), replacing(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed here")
    assert read_json(file) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", ["", "{", "[1, 2", "\x00\x01", "[" * 100_000])
def test_a_broken_json_file_is_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(content)
    with pytest.raises(StoreError, match=r"run\.json") as caught:
        read_json(file)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    write_json(tmp_path / "a.json", {"old": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        write_json(tmp_path / "a.json", {"new": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_path_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="a file stands where a directory is needed"):
        write_json(tmp_path / "file" / "a.json", {})


def test_parquet_keeps_types_and_says_what_is_broken(tmp_path: Path) -> None:
    columns = {"window": np.arange(3, dtype=np.int32), "nll": np.ones(3, np.float32)}
    file = tmp_path / "t.parquet"
    write_parquet(file, columns)
    found = read_parquet(file)
    assert found["window"].dtype == np.int32 and found["nll"].dtype == np.float32
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(StoreError, match=r"t\.parquet cannot be read"):
        read_parquet(file)
