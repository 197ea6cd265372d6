"""A comparison without network and without any calibration file, from the bare words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

import evalkit
from evalkit.errors import VariantError
from evalkit.progress import Event, ignore
from evalkit.running.compare import run as compare_run
from evalkit.view import render


def test_a_bare_word_whose_method_fails_becomes_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(task: Callable[..., Any], job: Any, listener: Any, *, gpu: str | None = None) -> Any:
        return task(job, listener)

    def fail(job: Any, listener: Any) -> None:
        if job.variant.backend == "gptq":
            raise VariantError("GPTQModel cannot make it: no module tree; use int4@bitsandbytes")

    monkeypatch.setattr(compare_run, "run_child", here)
    monkeypatch.setattr("evalkit.running.compare.expected.run_child", here)
    monkeypatch.setattr(compare_run, "make_checkpoint", fail)
    (tmp_path / "text.txt").write_text(tiny.documents(1, 3))
    found = evalkit.compare(
        "fp32", "int4", "int4@gptq,group_size=32", model=str(tiny.make_llama(tmp_path / "model")),
        text=[str(tmp_path / "text.txt")], out=tmp_path / "store", device="cpu", context=64,
        offline=True, progress=ignore,
    )  # fmt: skip
    assert [row.status for row in found.rows] == ["ok", "ok", "failed"]
    assert found.rows[1].variant.text == "int4@bitsandbytes,quant_type=nf4"
    note = "int4 is int4@bitsandbytes,quant_type=nf4 here: GPTQModel cannot make it: no module tree"
    assert note in found.notes
    assert not any("int4 is calibrated" in note for note in found.notes)


@pytest.mark.slow
def test_bare_words_need_no_network_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    model = tiny.make_llama(tmp_path / "model")
    (tmp_path / "text.txt").write_text(tiny.documents(1, 6))
    events: list[Event] = []
    found = evalkit.compare(
        "fp16", "int8", "int4", model=str(model), text=[str(tmp_path / "text.txt")],
        out=tmp_path / "store", device="cpu", context=64, offline=True, progress=events.append,
    )  # fmt: skip
    assert [row.status for row in found.rows] == ["ok"] * 3, [row.message for row in found.rows]
    assert found.rows[2].variant.text == "int4@gptq,calibration=self,group_size=32"
    shown = render(found, "table")
    assert "int4 is int4@gptq,group_size=32 here" in shown
    assert "calibrated on text that the model itself writes" in " ".join(shown.split())
    assert any("own calibration text of" in event.message for event in events)
    # What is made again in seconds is not kept: one checkpoint, and that of GPTQ.
    assert [entry.name[:9] for entry in (tmp_path / "store" / "artifacts").iterdir()] == [
        "int4-gptq"
    ]
