from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from gguf import GGMLQuantizationType
from gguf_files import Written

from evalkit.models.gguf.write import write_gguf
from evalkit.models.loading import load_causal_lm


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def written(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The tiny Llama as a GGUF file of a type, each written once."""
    folder = tmp_path_factory.mktemp("written")
    model = load_causal_lm(llama, dtype=torch.float32, device="cpu")

    def file(kind: str) -> Path:
        path = folder / f"{kind}.gguf"
        if not path.exists():
            write_gguf(model, llama, path, GGMLQuantizationType[kind])
        return path

    return file
