"""Checkpoints under AutoGPTQ's own names, as transformers and GPTQModel read them.

AutoGPTQ called its weights gptq_model-4bit-128g.safetensors, and its early versions described them
in quantize_config.json only.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evalkit.models.checkpoint import Checkpoint, autogptq_files

_WEIGHTS = "model.safetensors"


@contextmanager
def standard_names(checkpoint: Checkpoint) -> Iterator[Path]:
    """The directory of `checkpoint`, or links to its files under the usual names.

    The links are there while the block runs; weights that are mapped into memory stay.
    """
    path = checkpoint.path
    if any((path / name).is_file() for name in (_WEIGHTS, f"{_WEIGHTS}.index.json")):
        files: tuple[Path, ...] = ()
    else:
        files = autogptq_files(path)
    if not files and "quantization_config" in json.loads((path / "config.json").read_bytes()):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="evalkit-gptq-") as folder:
        _link(checkpoint, files, Path(folder))
        yield Path(folder)


def _link(checkpoint: Checkpoint, files: tuple[Path, ...], folder: Path) -> None:
    names = {file.name: file.name for file in checkpoint.path.iterdir() if file.is_file()}
    names.pop("config.json")
    if len(files) == 1:
        names[files[0].name] = _WEIGHTS
    for name in [name for name in names if name.endswith(".safetensors.index.json")]:
        names[name] = f"{_WEIGHTS}.index.json"
    for name, link in names.items():
        (folder / link).symlink_to((checkpoint.path / name).resolve())
    # What was read from quantize_config.json is part of it.
    (folder / "config.json").write_text(json.dumps(checkpoint.config), encoding="utf-8")
