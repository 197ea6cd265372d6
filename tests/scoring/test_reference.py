"""The reference on disk: resumed, refused where it does not fit, met by a full disk in time."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scoring_models import build, disturbed, ragged_windows, windows_of

from evalkit.errors import StoreError, VariantError
from evalkit.scoring.engine import score_windows
from evalkit.scoring.reference import Reference, ReferenceWriter
from evalkit.texts.windows import Windows

WINDOWS = ragged_windows()


def scored(model: Any, path: Path, windows: Windows = WINDOWS) -> ReferenceWriter:
    writer = ReferenceWriter.open(path, model, windows)
    list(score_windows(model, windows, batch_tokens=64, statistics={"nll"}, record=writer))
    return writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    scored(build("phi-3"), tmp_path / "r").complete()
    return tmp_path / "r"


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_are_the_final_hidden_states_in_window_order(path: Path) -> None:
    model = build("phi-3")
    reference = Reference.open(path, model, WINDOWS)
    batch = np.array([4, 1])
    with torch.inference_mode():
        expected = torch.cat(
            [
                model.base_model(
                    input_ids=torch.from_numpy(WINDOWS.window(i)[None].astype(np.int64))
                ).last_hidden_state[0, int(WINDOWS.score_from[i]) - 1 : -1]
                for i in batch
            ]
        )
    torch.testing.assert_close(reference.rows(batch), expected, rtol=1e-4, atol=1e-4)


def test_an_unfinished_reference_is_refused(tmp_path: Path) -> None:
    model = build("phi-3")
    scored(model, tmp_path / "r")
    with pytest.raises(StoreError, match="score the baseline first") as caught:
        Reference.open(tmp_path / "r", model, WINDOWS)
    one_line(caught)


def test_completion_needs_every_window(tmp_path: Path) -> None:
    model = build("phi-3")
    writer = ReferenceWriter.open(tmp_path / "r", model, WINDOWS)
    next(score_windows(model, WINDOWS, batch_tokens=64, statistics={"nll"}, record=writer))
    with pytest.raises(StoreError, match=r"lacks \d of 7 windows"):
        writer.complete()
    assert not (tmp_path / "r" / "complete.json").exists()


@pytest.mark.parametrize("size", [0, 100])
def test_a_truncated_file_is_refused(path: Path, size: int) -> None:
    with (path / "rows.bin").open("r+b") as file:
        file.truncate(size)
    for opened in (Reference, ReferenceWriter):
        with pytest.raises(StoreError, match=f"has {size} bytes, not") as caught:
            opened.open(path, build("phi-3"), WINDOWS)
        assert "--fresh" in one_line(caught)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("reference.json", "{", "is not JSON"),
        ("reference.json", "[]", "has schema None"),
        ("reference.json", '{"schema": "evalkit.reference/99"}', "evalkit.reference/99"),
        ("reference.json", '{"schema": "evalkit.reference/1"}', "damaged"),
        ("head.safetensors", "xxxxxxxxxxxxxxxx", "cannot be read"),
    ],
)
def test_damaged_files_are_refused(path: Path, name: str, content: str, words: str) -> None:
    (path / name).write_text(content)
    with pytest.raises(StoreError, match=words) as caught:
        Reference.open(path, build("phi-3"), WINDOWS)
    one_line(caught)


def test_an_unknown_dtype_is_refused(path: Path) -> None:
    content = json.loads((path / "reference.json").read_text())
    (path / "reference.json").write_text(json.dumps({**content, "dtype": "object"}))
    with pytest.raises(StoreError, match="damaged"):
        Reference.open(path, build("phi-3"), WINDOWS)


def test_missing_files_are_refused(path: Path) -> None:
    (path / "rows.bin").unlink()
    with pytest.raises(StoreError, match="cannot open") as caught:
        Reference.open(path, build("phi-3"), WINDOWS)
    one_line(caught)


def test_a_reference_of_another_text_is_refused(path: Path) -> None:
    other = windows_of([WINDOWS.window(i)[::-1] for i in range(7)], list(WINDOWS.score_from))
    with pytest.raises(StoreError, match="another text"):
        Reference.open(path, build("phi-3"), other)
    with pytest.raises(StoreError, match="another model or text"):
        ReferenceWriter.open(path, build("phi-3"), other)


@pytest.mark.parametrize("name", ["gemma-2", "phi-3-small"])
def test_a_variant_of_another_architecture_is_refused(path: Path, name: str) -> None:
    with pytest.raises(VariantError, match="the baseline is a Phi3ForCausalLM") as caught:
        Reference.open(path, build(name), WINDOWS)
    one_line(caught)


def test_a_variant_with_another_vocabulary_is_refused(path: Path) -> None:
    model = build("phi-3")
    model.resize_token_embeddings(700)
    reference = Reference.open(path, model, WINDOWS)
    with pytest.raises(VariantError, match="700 logits a token, the baseline 600"):
        list(score_windows(model, WINDOWS, batch_tokens=64, statistics={"kl"}, reference=reference))


def test_an_equal_head_is_not_held_twice(path: Path) -> None:
    model = build("phi-3")
    same = Reference.open(path, model, WINDOWS)
    assert same._head is not None and same._head.linear is None
    other = Reference.open(path, disturbed(model, 0.1), WINDOWS)
    assert other._head is not None and other._head.linear is not None


def test_too_small_a_disk_is_met_before_the_work(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match=r"reference takes 14,983 bytes") as caught:
            ReferenceWriter.open(tmp_path / "r", build("phi-3"), WINDOWS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free some space" in one_line(caught)
    assert not (tmp_path / "r" / "rows.bin").exists()
    # The store is not spoilt: with room, the same call works.
    scored(build("phi-3"), tmp_path / "r").complete()


def test_the_file_has_its_full_size_before_the_work(tmp_path: Path) -> None:
    writer = ReferenceWriter.open(tmp_path / "r", build("phi-3"), WINDOWS)
    size = (tmp_path / "r" / "rows.bin").stat()
    assert size.st_size == writer.layout.file_bytes
    assert size.st_blocks * 512 >= writer.layout.file_bytes
