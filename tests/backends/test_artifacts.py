"""A quantized checkpoint is made once, is whole or absent, and is found by what it is made of."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import calibration, make_llama

from evalkit.backends import _artifacts, bitsandbytes, gptq, parse_variant
from evalkit.backends._artifacts import (
    Calibration,
    artifact_name,
    find_artifact,
    make_artifact,
    remove_unfinished,
    write_checkpoint,
)
from evalkit.errors import StoreError, UsageError, VariantError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.identity import Identity
from evalkit.models.resolve import resolve_model

INT8 = parse_variant("int8")
SAMPLES = Calibration(calibration(2, 32), "text-1")


@pytest.fixture(scope="module")
def checkpoint(llama: Path) -> Checkpoint:
    return resolve_model(str(llama))


def files(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_it_is_made_once(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_artifact(tmp_path, checkpoint, INT8) is None
    made = make_artifact(tmp_path, checkpoint, INT8, "cpu")
    assert files(tmp_path) == [made.path.name]
    assert made.path.name == artifact_name(checkpoint, INT8)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files(made.path))
    monkeypatch.setattr(bitsandbytes, "quantize", None)
    assert make_artifact(tmp_path, checkpoint, INT8, "cpu") == made
    assert find_artifact(tmp_path, checkpoint, INT8) == made


def test_what_it_is_made_of_is_written_beside_it(tmp_path: Path, checkpoint: Checkpoint) -> None:
    variant = parse_variant("int4,samples=2")
    made = make_artifact(tmp_path, checkpoint, variant, "cpu", SAMPLES)
    content = json.loads((made.path / "evalkit.json").read_text())
    assert content["schema"] == "evalkit.artifact/1"
    assert content["variant"] == "int4@gptq,group_size=128,samples=2"
    assert content["options"]["damp_percent"] == 0.05
    assert content["model"]["identity"] == checkpoint.identity.weights
    assert content["calibration"] == {"identity": "text-1", "samples": 2, "tokens": 64}
    assert set(content["libraries"]) == {"gptqmodel", "optimum"}
    assert content["seconds"] == made.seconds > 0
    assert (content["device"], content["dtype"]) == ("cpu", "float32")


def test_the_name_follows_the_content(checkpoint: Checkpoint, monkeypatch: Any) -> None:
    def name(text: str, of: Checkpoint = checkpoint, calibration: str = "") -> str:
        return artifact_name(of, parse_variant(text), calibration)

    assert name("int4") == name("int4@gptq,group_size=128") == name("int4,damp_percent=0.05")
    # The calibration file is known by its content, wherever it lies.
    assert name("int4,calibration=/a.txt") == name("int4,calibration=/b.txt")
    other = dataclasses.replace(checkpoint, identity=Identity("other"))
    renamed = dataclasses.replace(checkpoint, name="x", path=Path("/elsewhere"))
    names = {
        name("int4"),
        name("int4", calibration="text-1"),
        name("int4,group_size=64"),
        name("int4,sym=false"),
        name("int8@gptq"),
        name("int8"),
        name("int8,threshold=0"),
        name("int4@bitsandbytes"),
        name("int4", other),
    }
    assert len(names) == 9
    assert name("int4", renamed) == name("int4")
    monkeypatch.setattr(_artifacts.importlib.metadata, "version", lambda _: "99")
    assert name("int4") not in names


def test_a_failure_leaves_nothing(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, variant: object, out: Path, *_: object, **__: object) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise VariantError("no")

    monkeypatch.setattr(bitsandbytes, "quantize", fail)
    with pytest.raises(VariantError):
        make_artifact(tmp_path, checkpoint, INT8, "cpu")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O: No space left (28)")],
)
def test_a_full_disk_is_one_line(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(bitsandbytes, "quantize", fail)
    with pytest.raises(StoreError, match=r"no space left .*free some"):
        make_artifact(tmp_path, checkpoint, INT8, "cpu")
    assert files(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        make_artifact(tmp_path / "file" / "artifacts", checkpoint, INT8, "cpu")


def test_another_process_that_was_first_wins(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / artifact_name(checkpoint, INT8)

    def race(source: Path, variant: object, out: Path, *_: object, **__: object) -> None:
        (out / "model.safetensors").write_bytes(b"ours")
        place.mkdir()
        (place / "evalkit.json").write_text('{"seconds": 7}')

    monkeypatch.setattr(bitsandbytes, "quantize", race)
    made = make_artifact(tmp_path, checkpoint, INT8, "cpu")
    assert (made.path, made.seconds) == (place, 7)
    assert files(tmp_path) == [place.name]


def test_what_killed_processes_left_is_removed_and_what_runs_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = tmp_path / f".making-{process.pid}-x"
    running = tmp_path / f".making-{os.getpid()}-y"
    for path in (dead, running):
        path.mkdir()
        (path / "model.safetensors").touch()
    remove_unfinished(tmp_path)
    assert files(tmp_path) == [running.name]


def test_a_broken_artifact_is_made_again(tmp_path: Path, checkpoint: Checkpoint) -> None:
    place = tmp_path / artifact_name(checkpoint, INT8)
    place.mkdir()
    made = make_artifact(tmp_path, checkpoint, INT8, "cpu")
    assert made.path == place
    assert find_artifact(tmp_path, checkpoint, INT8) == made


def test_writing_where_the_user_says(tmp_path: Path, checkpoint: Checkpoint) -> None:
    made = write_checkpoint(tmp_path / "deep" / "out", checkpoint, INT8, "cpu")
    assert made.path == tmp_path / "deep" / "out"
    assert (made.path / "model.safetensors").stat().st_size > 0
    # As readable as any other directory, though it began as a private one.
    ordinary = tmp_path / "ordinary"
    ordinary.mkdir()
    assert made.path.stat().st_mode == ordinary.stat().st_mode
    with pytest.raises(UsageError, match="is not empty"):
        write_checkpoint(made.path, checkpoint, INT8, "cpu")
    with pytest.raises(UsageError, match="fp16@transformers is not quantized"):
        write_checkpoint(tmp_path / "x", checkpoint, parse_variant("fp16"), "cpu")


def test_refusals_come_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = resolve_model(str(make_llama(tmp_path / "narrow", intermediate=172)))
    monkeypatch.setattr(gptq, "quantize", None)
    with pytest.raises(VariantError, match="172"):
        make_artifact(tmp_path / "store", narrow, parse_variant("int4"), "cpu", SAMPLES)
    with pytest.raises(VariantError, match="does not run on 'tpu'"):
        make_artifact(tmp_path / "store", narrow, INT8, "tpu")
    assert not (tmp_path / "store").exists()


def test_a_missing_library_is_named_with_its_install_line(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    from evalkit.backends import check_installed

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(
        VariantError, match=r"'bitsandbytes'.*`pip install bitsandbytes accelerate`"
    ):
        check_installed(bitsandbytes.SPEC)
