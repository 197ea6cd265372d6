"""Names to checkpoints, and every way a checkpoint can be wrong, each in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.errors import ModelError, UsageError
from evalkit.models import hub, resolve
from evalkit.models.resolve import resolve_config, resolve_model

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8}


def safetensors(data: int = 8) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(data)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(LLAMA))
    (path / "model.safetensors").write_bytes(safetensors())
    return path


def fails(ref: str | Path, *parts: str, kind: type[Exception] = ModelError, **flags: bool) -> None:
    with pytest.raises(kind) as caught:
        resolve_model(str(ref), **flags)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_directory(model: Path) -> None:
    checkpoint = resolve_model(str(model))
    assert checkpoint.path == model
    assert checkpoint.config == LLAMA
    assert checkpoint.architecture == "LlamaForCausalLM"
    assert checkpoint.weight_files == (model / "model.safetensors",)
    assert len(checkpoint.identity.weights) == 64


def test_shards_are_taken_from_the_index(model: Path) -> None:
    (model / "model.safetensors").rename(model / "b.safetensors")
    (model / "a.safetensors").write_bytes(safetensors(4))
    (model / "consolidated.safetensors").write_bytes(b"of another format")
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    files = resolve_model(str(model)).weight_files
    assert [file.name for file in files] == ["a.safetensors", "b.safetensors"]
    (model / "a.safetensors").unlink()
    fails(model, "lacks a.safetensors", "1 of 2 shards")


@pytest.mark.parametrize(
    ("index", "part"),
    [
        ("{}", "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ("{", "not valid JSON"),
        ('{"weight_map": {"a": "../other.safetensors"}}', "no file beside it"),
    ],
)
def test_a_broken_index(model: Path, index: str, part: str) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(index)
    fails(model, part)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "no whole safetensors file: 0 bytes"),
        (b"short", "no whole safetensors file"),
        (safetensors()[:-1], "truncated"),
        (safetensors()[:20], "no whole safetensors file"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "header of 1152921504606846976 bytes"),
        ((5).to_bytes(8, "little") + b"hello", "no valid safetensors header"),
        ((2).to_bytes(8, "little") + b"[]", "no valid safetensors header"),
        ((9).to_bytes(8, "little") + b'{"a": {}}', "no valid safetensors header"),
    ],
)
def test_a_broken_safetensors_file(model: Path, content: bytes, part: str) -> None:
    (model / "model.safetensors").write_bytes(content)
    fails(model, "model.safetensors", part)


def test_a_directory_that_is_no_checkpoint(tmp_path: Path, model: Path) -> None:
    fails(tmp_path, "has no config.json")
    (model / "model.safetensors").unlink()
    fails(model, "has no weights", "model.safetensors")
    fails(model / "config.json", "is a file")


@pytest.mark.parametrize(
    ("config", "part"), [("", "not valid JSON"), ("[]", "no JSON object"), ("{}", "no model_type")]
)
def test_a_broken_config(model: Path, config: str, part: str) -> None:
    (model / "config.json").write_text(config)
    fails(model, part)


def test_pickled_weights_only_where_allowed(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    fails(model, "pickled weights (pytorch_model.bin)", "--allow-pickle")
    checkpoint = resolve_model(str(model), allow_pickle=True)
    assert checkpoint.weight_files == (model / "pytorch_model.bin",)
    (model / "pytorch_model.bin").rename(model / "weights.pt")
    fails(model, "weights.pt", "rename or convert", allow_pickle=True)


def test_safetensors_are_preferred_to_pickles(model: Path) -> None:
    (model / "pytorch_model.bin").touch()
    files = resolve_model(str(model), allow_pickle=True).weight_files
    assert files == (model / "model.safetensors",)


def test_remote_code_only_where_allowed(model: Path) -> None:
    remote = {"model_type": "strange", "auto_map": {"AutoModelForCausalLM": "m.Model"}}
    (model / "config.json").write_text(json.dumps(remote))
    fails(model, "'strange'", "own Python code", "--trust-remote-code")
    assert resolve_model(str(model), trust_remote_code=True).config == remote
    (model / "config.json").write_text('{"model_type": "strange"}')
    fails(model, "'strange'", "not known to the installed transformers")


@pytest.mark.parametrize("model_type", ["phi3small", "llama", "mistral", "gpt_neox", "xlm-roberta"])
def test_native_architectures_need_no_remote_code(model: Path, model_type: str) -> None:
    config = {"model_type": model_type, "auto_map": {"AutoConfig": "x.Y"}}
    (model / "config.json").write_text(json.dumps(config))
    assert resolve_model(str(model)).config == config


def test_words_that_name_nothing() -> None:
    fails("dem0", "'dem0'", "did you mean 'demo'", kind=UsageError)
    fails("./nowhere", "no directory './nowhere'", "hub id")
    fails("a/b/c", "no directory 'a/b/c'")


@pytest.mark.parametrize("ref", ["phi-3-small", "phi-3-small-128k", "someone/model"])
def test_a_hub_out_of_reach_is_one_line_with_the_way_out(
    ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = resolve.ALIASES.get(ref, ref)
    folder = tmp_path / f"models--{repository.replace('/', '--')}"
    fails(
        ref,
        str(folder),
        "offline was asked for",
        "*.safetensors",
        f"hf download {repository} --local-dir DIR",
        "--model DIR",
        "--weights random",
        offline=True,
    )


def test_a_network_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise ConnectionResetError("by peer")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    fails("someone/model", "out of reach (ConnectionResetError)", "hf download someone/model")


def test_a_cached_hub_model_is_used_offline(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    repository = cache / "models--someone--model"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    for file in model.iterdir():
        file.rename(snapshot / file.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(cache))
    checkpoint = resolve_model("someone/model", offline=True)
    assert checkpoint.path == snapshot
    assert checkpoint.name == "someone/model"


@pytest.mark.parametrize(
    ("flags", "allowed", "refused"),
    [
        ({}, {"model*.safetensors"}, {"*.safetensors", "*.py", "pytorch_model*.bin"}),
        ({"allow_pickle": True}, {"pytorch_model*.bin"}, {"*.py"}),
        ({"trust_remote_code": True}, {"*.py"}, {"pytorch_model*.bin"}),
    ],
)
def test_pickles_and_code_are_not_even_downloaded_unless_allowed(
    flags: dict[str, bool],
    allowed: set[str],
    refused: set[str],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []

    def snapshot(repository: str, patterns: list[str], offline: bool) -> Path:
        asked.append(patterns)
        return model

    monkeypatch.setattr(hub, "_snapshot", snapshot)
    resolve_model("someone/model", **flags)
    assert allowed <= set(asked[0])
    assert refused.isdisjoint(asked[0])


def test_the_demo_model_is_found_in_a_wheel_and_in_a_checkout(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "evalkit"
    monkeypatch.setattr(resolve, "_PACKAGE", package)
    fails("demo", "not part of this installation", "data/demo/model")
    checkout = tmp_path / "site" / "data" / "demo" / "model"
    checkout.parent.mkdir(parents=True)
    model.rename(checkout)
    assert resolve_model("demo").path == checkout
    wheel = package / "_data" / "demo" / "model"
    wheel.parent.mkdir(parents=True)
    checkout.rename(wheel)
    assert resolve_model("demo").path == wheel


def test_the_configuration_alone_needs_no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    checkpoint = resolve_config(str(model))
    assert (checkpoint.config, checkpoint.weight_files) == (LLAMA, ())
    (model / "config.json").write_text(json.dumps({**LLAMA, "vocab_size": 9}))
    assert resolve_config(str(model)).identity != checkpoint.identity


def test_resolving_imports_no_torch(model: Path) -> None:
    code = (
        "import sys; from evalkit.models.resolve import resolve_model;"
        f"resolve_model({str(model)!r}); print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
