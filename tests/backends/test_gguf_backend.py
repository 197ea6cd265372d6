"""GGUF as a backend: files given and made, true bytes, refusals, and what runs them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from transformers import LlamaConfig

from evalkit.analysis.footprint import weight_bytes as planned_bytes
from evalkit.backends import gguf, keeps, loaded_as, parse_variant, refuse_timing
from evalkit.backends._artifacts import write_checkpoint
from evalkit.errors import ModelError, UsageError, VariantError
from evalkit.inference.timing import GenerationTime
from evalkit.metrics import Probe, Protocol, load_time, memory, size, speed
from evalkit.models.gguf.header import read_gguf_header
from evalkit.models.loading import load_causal_lm
from evalkit.models.resolve import resolve_config, resolve_model
from evalkit.models.shape import model_shape
from evalkit.models.unpacked import Unpacked
from evalkit.records import Variant


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def made(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a file in Q8_0."""
    out = tmp_path_factory.mktemp("made") / "q8"
    gguf_quantize("q8_0@gguf", llama, out)
    return out


def gguf_quantize(words: str, source: Path, out: Path) -> None:
    out.mkdir()
    gguf.quantize(source, parse_variant(words), out, "cpu", None)


def probe(unpacked: Unpacked | None, model: Any) -> Probe:
    return Probe(model, "cpu", "", Protocol(seconds=0.0), 0, {"load": 1.0}, unpacked=unpacked)


@pytest.mark.parametrize("words", ["q8_0@gguf", "Q4_K_M@gguf", "bf16@gguf", "iq4_xs@gguf"])
def test_llama_cpps_names_are_precisions(words: str) -> None:
    variant = parse_variant(words)
    assert (variant.text, variant.backend) == (words.lower(), "gguf")
    assert gguf.label(variant) == f"GGUF {words.partition('@')[0].upper()}"


def test_a_bare_name_asks_for_its_backend() -> None:
    with pytest.raises(UsageError, match="write q4_k_m@gguf"):
        parse_variant("q4_k_m")


def test_a_file_or_its_directory_is_a_variant(made: Path, llama: Path, tmp_path: Path) -> None:
    file = next(made.glob("*.gguf"))
    for words in (str(file), str(made)):
        variant = parse_variant(words)
        assert variant == Variant("checkpoint", "gguf", checkpoint=words, asked=words)
        assert gguf.label(variant) == Path(words).name
        assert not keeps(variant) and keeps(parse_variant("q8_0@gguf"))
        gguf.check(resolve_model(str(llama)), variant)
    with pytest.raises(UsageError, match="no file 'absent"):
        parse_variant("absent.gguf")


def test_its_identity_is_its_content(made: Path, tmp_path: Path) -> None:
    def content(path: Path) -> str:
        return gguf.content(
            parse_variant(str(path)),
            offline=True,
            allow_pickle=False,
            trust_remote_code=False,
            hash_cache=None,
        )

    file = next(made.glob("*.gguf"))
    (copy := tmp_path / "other.gguf").write_bytes(file.read_bytes())
    (changed := tmp_path / "changed.gguf").write_bytes(file.read_bytes()[:-1] + b"\1")
    assert content(file) == content(copy) == content(made) != content(changed)


def test_a_variant_is_held_as_the_file_is(made: Path, llama: Path) -> None:
    """Unpacked for quality, counted as the file, never timed by its plain weights."""
    loaded = gguf.load(llama, parse_variant(str(made)), "cpu")
    header = read_gguf_header(next(made.glob("*.gguf")))
    assert loaded.kernel == "Linear (float32) unpacked from GGUF"
    assert f"tensors in {header.types}; {header.tensor_bytes:,} bytes" in loaded.notes[0]
    one = probe(loaded.unpacked, loaded.model)
    total, bits, quantized = size.measure(one)
    assert total.values == (header.tensor_bytes,)
    assert bits.values[0] == pytest.approx(8 * header.tensor_bytes / loaded.model.num_parameters())
    # A block of 32 has a byte a weight and two for its scale.
    assert quantized.values == (8.5,)
    for metric in (memory, load_time):
        with pytest.raises(VariantError, match="plain weights unpacked"):
            metric.measure(one)


def test_speed_is_that_of_the_engine_that_runs_the_file(llama: Path) -> None:
    def timed(prompt: int, generate: int) -> GenerationTime:
        return GenerationTime(prompt * 0.5, (0.25,) * generate)

    model = SimpleNamespace(config=LlamaConfig(max_position_embeddings=4096))
    prefill, decode = speed.measure(
        probe(Unpacked({}, (0, 0), "unpacked", "llama.cpp", timed), model)
    )
    assert (prefill.values[0], decode.values[0]) == (2.0, 4.0)
    assert decode.convention.endswith(", llama.cpp")
    with pytest.raises(VariantError, match="unpacked; pip install it"):
        speed.measure(probe(Unpacked({}, (0, 0), "unpacked", "pip install it"), model))


def test_what_decodes_here_refuses_it() -> None:
    refuse_timing(parse_variant("int8"))
    with pytest.raises(VariantError, match="another engine runs it"):
        refuse_timing(parse_variant("q8_0@gguf"))
    assert loaded_as(parse_variant("q8_0@gguf"), "cpu").text == "fp32@transformers"
    assert loaded_as(parse_variant("int8"), "cpu") == parse_variant("int8")


@pytest.mark.parametrize("words", ["q8_0@gguf", "q4_0@gguf"])
def test_the_plan_knows_its_bytes(llama: Path, tmp_path: Path, words: str) -> None:
    gguf_quantize(words, llama, out := tmp_path / "out")
    header = read_gguf_header(next(out.glob("*.gguf")))
    shape = model_shape("tiny", resolve_config(str(llama)).config)
    for variant in (parse_variant(words), parse_variant(str(out))):
        planned = planned_bytes(shape, gguf.scheme(variant)).total
        assert planned == pytest.approx(header.tensor_bytes, rel=0.01)


def test_its_checkpoint_says_what_it_was_made_of(llama: Path, tmp_path: Path) -> None:
    variant, out = parse_variant("q4_1@gguf"), tmp_path / "out"
    write_checkpoint(out, resolve_model(str(llama)), variant, "cpu", for_others=True)
    names = {file.name for file in out.iterdir()}
    assert names >= {"model-Q4_1.gguf", "config.json", "tokenizer.json"}
    assert json.loads((out / "evalkit.json").read_text())["dtype"] == "float32"
    assert parse_variant(str(out)).backend == "gguf"


def test_k_quants_are_made_by_llama_cpp_or_refused_in_one_line(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf._llama_cpp, "installed", lambda: False)
    with pytest.raises(VariantError, match=r"q4_k_m@gguf is made by llama\.cpp itself: pip"):
        gguf.check(resolve_model(str(llama)), parse_variant("q4_k_m@gguf"))


def test_models_that_llama_cpp_does_not_have_are_refused() -> None:
    with pytest.raises(VariantError, match="'phi3small' has no layout in GGUF"):
        gguf.check(resolve_model("demo"), parse_variant("q8_0@gguf"))


def test_a_directory_of_parts_is_refused(made: Path, llama: Path, tmp_path: Path) -> None:
    for name in ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(VariantError, match="holds 2 files"):
        gguf.check(resolve_model(str(llama)), parse_variant(str(tmp_path)))


def test_gptqmodels_own_container_is_never_loaded_as_random_weights(
    llama: Path, tmp_path: Path
) -> None:
    """Neither as a variant nor as the model; nor by what loads any directory."""
    from safetensors.torch import load_file, save_file

    config = json.loads((llama / "config.json").read_text())
    made = {"bits": 4, "method": "gguf", "quant_method": "gguf", "format": "q_0"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": made}))
    tensors = load_file(llama / "model.safetensors")
    packed = {
        name.replace("proj.weight", "proj.qweight"): torch.zeros(4, dtype=torch.uint8)
        if "proj" in name else values
        for name, values in tensors.items()
    }  # fmt: skip
    save_file(packed, tmp_path / "model.safetensors", {"format": "pt"})
    container = parse_variant(str(tmp_path))
    with pytest.raises(VariantError, match="GPTQModel's own container of GGUF blocks"):
        evalkit_check(container, resolve_model(str(llama)))
    with pytest.raises(VariantError, match=r"already quantized \(gguf\)"):
        evalkit_check(parse_variant("fp16"), resolve_model(str(tmp_path)))
    with pytest.raises(ModelError, match=r"lacks the weights|cannot be loaded"):
        load_causal_lm(tmp_path, dtype=torch.float32, device="cpu")


def evalkit_check(variant: Variant, checkpoint: Any) -> None:
    from evalkit import plugins

    plugins.load("backends", variant.backend).check(checkpoint, variant)
