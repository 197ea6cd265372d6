"""Keys and tokens are used and never written: not to runs, reports, notebooks, logs or messages."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from evalkit import cli

SECRETS = {
    "HF_TOKEN": "hf_secretsecretsecret1",
    "OPENAI_API_KEY": "sk-secretsecretsecret2",
    "OWN_KEY": "secretsecretsecret3",
}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return list(SECRETS.values())


def test_nothing_that_is_written_holds_a_key(
    keys: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, text = tiny.make_llama(tmp_path / "model"), tmp_path / "text.txt"
    text.write_text(tiny.documents(1, 2), encoding="utf-8")
    store = tmp_path / "store"
    served = "served@endpoint,url=http://127.0.0.1:9,model=m,key_env=OWN_KEY"
    words = ["compare", "fp32", "fp16", "--model", model, "--text", text, "--format", "json"]
    for more in (words, ["compare", "fp32", served, *words[3:]], ["report"], ["list"]):
        with pytest.raises(SystemExit):
            cli.main([*map(str, more), "--out", str(store)])
    said = capsys.readouterr()
    written = {str(f): f.read_bytes() for f in store.rglob("*") if f.is_file()}
    assert any("/runs/" in name for name in written)
    for key in keys:
        assert key not in said.out + said.err
        assert [name for name, content in written.items() if key.encode() in content] == []


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secretsecretsecret3@127.0.0.1:9",
        "http://127.0.0.1:9/v1?token=secretsecretsecret3",
    ],
)
def test_a_key_in_a_url_is_refused_and_not_repeated(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variant = f"served@endpoint,url={url},model=m"
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", "fp32", variant, "--model", "demo", "--out", str(tmp_path / "store")])
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert "key_env=NAME" in said.err
    assert "secretsecretsecret3" not in said.out + said.err
    written = [f for f in (tmp_path / "store").rglob("*") if f.is_file()]
    assert not [f for f in written if b"secretsecretsecret3" in f.read_bytes()]
