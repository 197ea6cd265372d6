"""Every mistake is one line on stderr with the value, what is allowed and the fix."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tiny import documents, make_llama

from evalkit import cli
from evalkit.running.compare import expected


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    make_llama(root / "model")
    (root / "good.txt").write_text(documents(1, 3))
    (root / "empty.txt").write_text("")
    (root / "latin1.txt").write_bytes("caf\xe9 au lait".encode("latin-1"))
    (root / "nothing").mkdir()
    broken = root / "truncated"
    make_llama(broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    missing = root / "missing-shard"
    make_llama(missing)
    (missing / "model.safetensors").rename(missing / "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    (missing / "model.safetensors.index.json").write_text(json.dumps(index))
    pickled = root / "pickled"
    make_llama(pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    huge = root / "huge-header"
    make_llama(huge)
    (huge / "model.safetensors").write_bytes((10**15).to_bytes(8, "little") + b"{}")
    return root


CASES = [
    (["fp17"], "unknown precision 'fp17'", "did you mean 'fp16'"),
    (["int8@bitsandbyte"], "unknown backend 'bitsandbyte'", "did you mean 'bitsandbytes'"),
    (["int4@gptq,groupsize=64"], "groupsize", "group_size"),
    (["int4@gptq,group_size=65"], "65", "64"),
    (["fp16", "--model", "{root}/nothing"], "has no config.json", "checkpoint"),
    (["fp16", "--model", "{root}/truncated"], "truncated", "model.safetensors"),
    (["fp16", "--model", "{root}/missing-shard"], "model-00002-of-00002", "download or copy"),
    (["fp16", "--model", "{root}/pickled"], "pickled weights", "--allow-pickle"),
    (["fp16", "--model", "{root}/huge-header"], "model.safetensors", ""),
    (["fp16", "--model", "nowhere"], "unknown model 'nowhere'", "allowed are"),
    (["fp16", "--text", "{root}/empty.txt"], "empty", ""),
    (["fp16", "--text", "{root}/latin1.txt"], "not UTF-8", "iconv"),
    (["fp16", "--text", "{root}/god.txt"], "does not exist", "did you mean 'good.txt'"),
    (["fp16", "--text", "~nobody-of-this-name/a.txt"], "does not exist", "check the path"),
    (["fp16", "--convention", "gtpq"], "unknown convention 'gtpq'", "did you mean 'gptq'"),
    (["fp16", "--context", "4096"], "--context 4096", "128"),
    (["fp16", "--margin", "lots"], "margin 'lots'", "1pp"),
    (["fp16", "--baseline", "fp32"], "--baseline 'fp32'", "fp16"),
    (["fp16", "--device", "gpu"], "unknown device 'gpu'", "cuda"),
    (["fp16", "--device", "cuda"], "cuda", "--device cpu"),
    (["fp16", "--suite", "demi"], "unknown suite 'demi'", "did you mean 'demo'"),
    (["fp16", "--out", "{root}/good.txt"], "is a file", "--out"),
    (["fp16", "--limit", "many"], "--limit", ""),
    (["fp16", "--convention", "gtpq", "--context", "64"], "'gtpq'", "did you mean 'gptq'"),
    (["fp16", "--context", "0"], "--context 0", "at least 1"),
    (["fp16", "--limit", "0"], "--limit 0", "at least 1"),
    (["fp16", "--shots", "-1"], "--shots -1", "at least 0"),
    (["fp16", "--batch-tokens", "0"], "--batch-tokens 0", "at least 1"),
    (["fp16", "--txet", "x"], "--txet", "--text"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "value", "fix"), CASES, ids=lambda x: str(x)[:40])
def test_one_line(
    words: list[str],
    value: str,
    fix: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    words = [word.replace("{root}", str(place)) for word in words]
    words += [] if "--model" in words else ["--model", str(place / "model")]
    words += [] if "--text" in words or "--txet" in words else ["--text", str(place / "good.txt")]
    words += [] if "--out" in words else ["--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *words])
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert ended.value.code in (1, 2)
    assert captured.out == ""
    assert len(lines) == 1, captured.err
    assert value in lines[0] and fix in lines[0]


def test_a_text_shorter_than_a_window(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expected, "run_child", lambda task, job, listener, gpu: task(job, listener))
    (tmp_path / "short.txt").write_text("the old house")
    words = ["compare", "fp32", "--model", str(place / "model"), "--convention", "gptq"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--text", str(tmp_path / "short.txt"), "--out", str(tmp_path / "store")])
    assert ended.value.code == 2
    assert "less than one window" in capsys.readouterr().err.replace("\n", " ")


def test_a_read_only_store(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    store = tmp_path / "store"
    store.mkdir(mode=0o500)
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", "fp32", "--model", str(place / "model"), "--out", str(store),
                  "--text", str(place / "good.txt")])  # fmt: skip
    assert ended.value.code == 1
    assert "permission is denied" in capsys.readouterr().err


def test_overlapping_calibration_text_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_llama(tmp_path / "wide", hidden=128, intermediate=128)
    text = str(place / "good.txt")
    words = ["compare", "fp32", f"int4@gptq,calibration={text}", "--model", str(tmp_path / "wide")]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--text", text, "--out", str(tmp_path / "store"), "--format", "json"])
    assert ended.value.code == 1
    row = json.loads(capsys.readouterr().out)["rows"][1]
    assert "overlap" in row["message"] and "--allow-overlap" in row["message"]
