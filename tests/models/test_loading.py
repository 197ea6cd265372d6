"""Loading whole models only; what is missing or does not belong is an error in one line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from evalkit.errors import EvalkitError, ModelError
from evalkit.models.loading import load_causal_lm, load_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    path = tmp_path / "model"
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def change(path: Path, add: dict[str, torch.Tensor], drop: tuple[str, ...] = ()) -> None:
    tensors = load_file(path / "model.safetensors")
    for name in drop:
        del tensors[name]
    save_file({**tensors, **add}, path / "model.safetensors", metadata={"format": "pt"})


def fails(path: Path, *parts: str, **flags: bool) -> None:
    with pytest.raises(ModelError) as caught:
        load_causal_lm(path, dtype="float32", device="cpu", **flags)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_in_the_asked_precision(model: Path, dtype: str) -> None:
    loaded = load_causal_lm(model, dtype=dtype, device="cpu")
    assert {str(p.dtype) for p in loaded.parameters()} == {f"torch.{dtype}"}
    assert not loaded.training


def test_a_missing_weight_is_never_made_up(model: Path) -> None:
    change(model, {}, ("model.layers.0.mlp.up_proj.weight",))
    fails(model, "lacks the weights model.layers.0.mlp.up_proj.weight", "config.json")


def test_an_unknown_weight_is_reported(model: Path) -> None:
    change(
        model, {f"model.layers.{i}.mlp.up_proj.weight": torch.zeros(48, 32) for i in range(1, 6)}
    )
    fails(model, "does not know the weights model.layers.1.mlp", "and 2 more")


def test_another_shape_is_reported(model: Path) -> None:
    change(model, {"model.norm.weight": torch.zeros(31)})
    fails(model, "holds in another shape the weights model.norm.weight")


def test_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load_causal_lm(tmp_path, dtype="float32", device="cpu")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_the_native_architecture_reports_in_one_line_too(shared: Path, tmp_path: Path) -> None:
    source = shared / "phi3small_golden" / "short_blocks"
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    tensors = load_file(source / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvalkitError, match="up_proj") as caught:
        load_causal_lm(tmp_path, dtype="float32", device="cpu")
    assert "\n" not in str(caught.value)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("touched"),))  # type: ignore[return-value]


def test_pickled_weights_are_not_read_unless_allowed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    with (model / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Malicious(), file)
    fails(model, "cannot be loaded")
    fails(model, "cannot be loaded", allow_pickle=True)
    assert not (tmp_path / "touched").exists()
    torch.save(tensors, model / "pytorch_model.bin")
    fails(model, "cannot be loaded")
    loaded = load_causal_lm(model, dtype="float32", device="cpu", allow_pickle=True)
    assert torch.equal(loaded.model.norm.weight, tensors["model.norm.weight"])


def test_remote_code_is_not_run_unless_allowed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = json.loads((model / "config.json").read_text())
    config["model_type"] = "strange"
    config["auto_map"] = {"AutoConfig": "code.Strange", "AutoModelForCausalLM": "code.Model"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "code.py").write_text("from pathlib import Path\nPath('touched').touch()\n")
    fails(model, "cannot be loaded")
    assert not (tmp_path / "touched").exists()


def test_no_tokenizer(model: Path) -> None:
    with pytest.raises(ModelError, match="no usable tokenizer") as caught:
        load_tokenizer(model)
    assert "\n" not in str(caught.value)


def test_nothing_is_printed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_causal_lm(model, dtype="float32", device="cpu")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
