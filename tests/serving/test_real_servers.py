"""Real servers of others: transformers serve, and llama-cpp-python where it is installed.

llama-cpp-python is built from source for minutes, so it is no dependency: EVALKIT_LLAMA_PYTHON
names the Python of an environment with `llama-cpp-python[server]` and `gguf`.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import evalkit
from evalkit.models.loading import load_causal_lm, load_tokenizer
from evalkit.serving.client import Client
from evalkit.serving.http import Address
from evalkit.serving.process import served

LLAMA_PYTHON = os.environ.get("EVALKIT_LLAMA_PYTHON", "")
needs_llama = pytest.mark.skipif(not LLAMA_PYTHON, reason="EVALKIT_LLAMA_PYTHON is not set")
needs_serve = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "openai")),
    reason="transformers serve needs fastapi, uvicorn and openai",
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def running(word: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if word in (p.info["cmdline"] or ())]


@pytest.fixture(scope="module")
def stories(shared: Path) -> Path:
    return shared / "models" / "stories260k"


@pytest.fixture(scope="module")
def llama_command(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    model = tmp_path_factory.mktemp("gguf") / "stories.gguf"
    writer = Path(__file__).with_name("write_gguf.py")
    subprocess.run([LLAMA_PYTHON, str(writer), str(stories), str(model)], check=True)
    return (
        f"{LLAMA_PYTHON} -m llama_cpp.server --model {model} --host 127.0.0.1 --logits_all true"
        " --n_ctx 512 --n_threads 1 --model_alias stories --port"
    )


@pytest.fixture
def llama(llama_command: str, tmp_path: Path) -> Iterator[Address]:
    port = free_port()
    address = Address(f"http://127.0.0.1:{port}/v1")
    with served(f"{llama_command} {port}", address, tmp_path / "log", lambda: None):
        yield address


@needs_llama
@pytest.mark.slow
def test_prompt_log_probabilities_of_llama_cpp(llama: Address, stories: Path) -> None:
    import torch

    tokenizer = load_tokenizer(stories)
    client = Client(llama, "stories", tokenizer.decode, tokenizer.bos_token_id)
    tokens = tokenizer.encode("Once upon a time, there was a little girl named Lily. She was sad.")
    client.open(tokens)
    assert not client.takes_tokens
    assert client.adds_bos
    scores = client.prompt_scores(tokens)
    model = load_causal_lm(stories, dtype=torch.float32, device="cpu")
    with torch.inference_mode():
        table = model(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
    wanted = table[range(len(tokens) - 1), tokens[1:]]
    assert scores.logprobs == pytest.approx(wanted.tolist(), abs=2e-2)
    assert scores.greedy == (table.argmax(-1) == torch.tensor(tokens[1:])).tolist()


@needs_llama
@pytest.mark.slow
def test_compare_and_bench_with_llama_cpp(
    llama_command: str, stories: Path, shared: Path, tmp_path: Path
) -> None:
    """--serve starts it and stops it; perplexity of whole stories, as of the model loaded here."""
    port = free_port()
    variant = f"served@endpoint,url=http://127.0.0.1:{port}"
    words = {"model": str(stories), "serve": f"{llama_command} {port}", "out": tmp_path}
    result = evalkit.compare(
        "fp32", variant, text=shared / "data" / "text" / "tinystories_1000.txt",
        convention="document", limit=10, tasks="arc_easy", data=shared / "data", **words,
    )  # fmt: skip
    here, there = result.rows
    assert there.status == "ok", there.message
    assert there.metrics["perplexity"].n == here.metrics["perplexity"].n
    assert there.metrics["perplexity"].value == pytest.approx(
        here.metrics["perplexity"].value, rel=1e-3
    )
    assert not running(str(port))
    bench = evalkit.bench(
        variant, prompt=32, generate=16, batch_sizes=(1, 2), rounds=1, repetitions=2, **words
    )
    assert [(p.status, p.message) for p in bench.points] == [("ok", "")] * 4
    assert not running(str(port))


@pytest.mark.slow
@needs_serve
def test_transformers_serve(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It streams, and gives no log-probabilities: speed is measured, quality is refused."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    port = free_port()
    script = Path(sys.executable).with_name("transformers")
    command = f"{script} serve {checkpoint} --host 127.0.0.1 --port {port} --device cpu"
    variant = f"served@endpoint,url=http://127.0.0.1:{port},model={checkpoint}"
    address = Address(f"http://127.0.0.1:{port}/v1")
    text = tmp_path / "text.txt"
    text.write_text("the old house sees a tree. the red bird was near the river.")
    with served(command, address, tmp_path / "log", lambda: None):
        bench = evalkit.bench(
            variant, model=str(checkpoint), prompt=16, generate=8, batch_sizes=(1, 2), rounds=1,
            repetitions=2, out=tmp_path,
        )  # fmt: skip
        result = evalkit.compare(variant, model=str(checkpoint), text=text, out=tmp_path)
    assert [(p.status, p.message) for p in bench.points] == [("ok", "")] * 4
    assert {point.batch_size for point in bench.points} == {1, 2}
    assert all(point.engine == "endpoint" for point in bench.points)
    assert result.rows[0].status == "failed"
    assert "no log-probabilities of the prompt" in result.rows[0].message
    assert not running(str(port))
