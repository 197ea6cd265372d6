"""What llama.cpp makes of the files that are written here, through llama-cpp-python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoTokenizer

from evalkit.backends import gguf, parse_variant
from evalkit.backends._llama_cpp import Engine, engine_name, why_not_timed
from evalkit.models.gguf.header import read_gguf_header
from evalkit.models.resolve import resolve_model

llama_cpp = pytest.importorskip("llama_cpp")
TEXT = "the old red house brings the river. who it was is had went came under 42 tree!"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_llama(tmp_path_factory.mktemp("model"), hidden=256, intermediate=96)


@pytest.fixture(scope="module")
def files(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def made(words: str) -> Path:
        out = tmp_path_factory.mktemp("made")
        gguf.quantize(llama, parse_variant(words), out, "cpu", None)
        return next(out.glob("*.gguf"))

    return made


def opened(file: Path) -> Any:
    return llama_cpp.Llama(str(file), n_ctx=128, n_threads=1, logits_all=True, verbose=False)


def logits_there(file: Path, ids: list[int]) -> torch.Tensor:
    model = opened(file)
    model.eval(ids)
    return torch.from_numpy(np.array(model.scores[: len(ids)]))


def mean_loss(logits: torch.Tensor, ids: list[int]) -> float:
    targets = torch.tensor(ids[1:])
    return float(torch.nn.functional.cross_entropy(logits[:-1].double(), targets))


def test_an_f32_file_has_the_same_likelihood_there(llama: Path, files: Any) -> None:
    file = files("fp32@gguf")
    ids = AutoTokenizer.from_pretrained(llama)(TEXT).input_ids
    assert opened(file).tokenize(TEXT.encode(), add_bos=False) == ids
    loaded = gguf.load(llama, parse_variant(str(file)), "cpu")
    with torch.inference_mode():
        here = loaded.model(torch.tensor([ids])).logits[0]
    assert mean_loss(logits_there(file, ids), ids) == pytest.approx(mean_loss(here, ids), rel=1e-3)


@pytest.mark.parametrize("words", ["q8_0@gguf", "q5_1@gguf", "q4_0@gguf", "bf16@gguf"])
def test_what_is_written_here_loads_there(files: Any, words: str) -> None:
    engine = Engine(files(words), "cpu", 1)
    found = engine.time_generation(16, 3)
    assert found.prefill > 0 and len(found.steps) == 3
    assert len(engine.time_generation(32, 4).steps) == 4


def test_stories260k_is_tokenised_there_as_here(shared: Path, tmp_path: Path) -> None:
    """SentencePiece's kind of tokenizer, made of merges alone."""
    source = shared / "models" / "stories260k"
    gguf.quantize(source, parse_variant("fp16@gguf"), tmp_path, "cpu", None)
    text = "Once upon a time, Zoë saw 12  birds.\nThey said: “hi”"
    model = opened(next(tmp_path.glob("*.gguf")))
    assert model.tokenize(text.encode()) == AutoTokenizer.from_pretrained(source)(text).input_ids


def test_llama_cpp_makes_k_quants_and_says_which_rows_they_do_not_fit(
    llama: Path, files: Any
) -> None:
    variant = parse_variant("q4_k_m@gguf")
    gguf.check(resolve_model(str(llama)), variant)
    file = files("q4_k_m@gguf")
    header = read_gguf_header(file)
    assert header.file_type == "Q4_K_M"
    assert {tensor.type for tensor in header.tensors.values()} >= {"F32", "Q4_K", "Q6_K"}
    loaded = gguf.load(llama, parse_variant(str(file)), "cpu")
    assert "2 matrices have rows of no whole blocks of 256" in loaded.notes[1]


def test_the_engine_is_named_with_its_version_and_threads() -> None:
    version = llama_cpp.__version__
    assert engine_name(2, "cpu") == f"llama.cpp (llama-cpp-python {version}, 2 threads)"
    assert why_not_timed("cpu") == ""
    if not llama_cpp.llama_supports_gpu_offload():
        assert "built without CUDA" in why_not_timed("cuda")
