from pathlib import Path

import numpy as np
import pytest

from evalkit.errors import StoreError
from evalkit.store.files import read_parquet
from evalkit.store.parts import Parts


def _batch(first: int) -> dict[str, np.ndarray]:
    return {
        "window": np.array([first, first + 1], np.int32),
        "nll": np.array([first, first + 0.5], np.float32),
    }


def test_parts_are_merged_in_order_and_removed(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts", "window")
    parts.append(_batch(0))
    Parts(tmp_path / "parts", "window").append(_batch(2))
    assert parts.done() == {0, 1, 2, 3}
    parts.merge(tmp_path / "all.parquet")
    assert read_parquet(tmp_path / "all.parquet")["nll"].tolist() == [0, 0.5, 2, 2.5]
    assert not (tmp_path / "parts").exists()


def test_an_unreadable_part_is_measured_again(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts", "window")
    parts.append(_batch(0))
    parts.append(_batch(2))
    parts.files()[0].write_bytes(b"PAR1")
    (tmp_path / "parts" / ".tmp-left").write_bytes(b"")
    again = Parts(tmp_path / "parts", "window")
    assert again.done() == {2, 3}
    assert [path.suffix for path in (tmp_path / "parts").iterdir()] == [".parquet"]


def test_nothing_to_merge_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no measured batch"):
        Parts(tmp_path / "parts", "window").merge(tmp_path / "all.parquet")
