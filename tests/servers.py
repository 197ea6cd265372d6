"""Servers for the tests: a small model behind the completions API, and ones that misbehave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Handler = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


@contextmanager
def serving(handle: Handler) -> Iterator[str]:
    """A server on a free port that gives every POST to `handle`; yields its URL."""

    class Answering(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            send_json(self, {"data": [{"id": "tiny"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                handle(self, body)
            except (BrokenPipeError, ConnectionResetError):
                return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def send_json(request: BaseHTTPRequestHandler, content: Any, status: int = 200) -> None:
    send_bytes(request, json.dumps(content).encode(), status)


def send_bytes(request: BaseHTTPRequestHandler, content: bytes, status: int = 200) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


def begin_stream(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "text/event-stream")
    request.end_headers()


def send_event(request: BaseHTTPRequestHandler, content: Any) -> None:
    request.wfile.write(b"data: " + json.dumps(content).encode() + b"\n\n")
    request.wfile.flush()


def piece(text: str) -> dict[str, Any]:
    return {"choices": [{"text": text, "index": 0}]}


class Completions:
    """The checkpoint in `path` behind /v1/completions, as vLLM answers: token ids or text."""

    def __init__(self, path: Path, *, takes_tokens: bool = True) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(path).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.takes_tokens = takes_tokens
        self.lock = threading.Lock()
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self.asked.append(body)
        prompt = body["prompt"]
        if isinstance(prompt, list) and not self.takes_tokens:
            send_json(request, {"error": {"message": "prompt must be a string"}}, 400)
            return
        if isinstance(prompt, str):
            prompt = [self.tokenizer.bos_token_id, *self.tokenizer.encode(prompt)]
        with self.lock, self.torch.inference_mode():
            made = self.generated(prompt, body["max_tokens"])
            logprobs = self.logprobs(prompt + made) if body.get("echo") else None
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(made)}
        if body.get("stream"):
            begin_stream(request)
            for token in made:
                send_event(request, piece(self.tokenizer.decode([token]) or "?"))
            send_event(request, {"choices": [], "usage": usage})
            request.wfile.write(b"data: [DONE]\n\n")
            return
        text = self.tokenizer.decode(made)
        for stop in body.get("stop", []):
            text = text.split(stop)[0]
        choice = {"text": text, "index": 0, "logprobs": logprobs}
        send_json(request, {"choices": [choice], "usage": usage})

    def generated(self, prompt: list[int], count: int) -> list[int]:
        tokens = list(prompt)
        for _ in range(count):
            logits = self.model(self.torch.tensor([tokens])).logits[0, -1]
            tokens.append(int(logits.argmax()))
        return tokens[len(prompt) :]

    def logprobs(self, tokens: list[int]) -> dict[str, Any]:
        logits = self.model(self.torch.tensor([tokens])).logits[0, :-1]
        table = logits.float().log_softmax(-1)
        values = [float(table[i, token]) for i, token in enumerate(tokens[1:])]
        best = [float(row.max()) for row in table]
        tops = [{"best": b, "own": v} for b, v in zip(best, values, strict=True)]
        words = [self.tokenizer.decode([token]) for token in tokens]
        return {"tokens": words, "token_logprobs": [None, *values], "top_logprobs": [None, *tops]}


def without_logprobs(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """As llama.cpp's own server does: a value for the generated token only."""
    choice = {"text": "a", "logprobs": {"token_logprobs": [-0.1], "top_logprobs": [{"a": -0.1}]}}
    count = len(body["prompt"])
    send_json(
        request, {"choices": [choice], "usage": {"prompt_tokens": count, "completion_tokens": 1}}
    )


def garbage(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    send_bytes(request, b"\x1b[2J<html>\x00 no JSON \x07</html>")


def failing(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    said = "CUDA out of memory, key " + str(request.headers["Authorization"])
    send_json(request, {"error": said}, 503)


def silent(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    time.sleep(30)


def dripping(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """A header a byte at a time: no single read ever waits long."""
    for _ in range(300):
        request.wfile.write(b"H")
        request.wfile.flush()
        time.sleep(0.1)


def breaking_off(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    if not body.get("stream"):
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b'{"choices": [')
        return
    begin_stream(request)
    send_event(request, piece("a"))


def endless(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    begin_stream(request)
    while True:
        send_event(request, piece("a"))


def endless_line(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    begin_stream(request)
    request.wfile.write(b"data: ")
    while True:
        request.wfile.write(b"x" * 65536)


def deep(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    send_bytes(request, b"[" * 200_000)


def redirecting(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    request.send_response(302)
    request.send_header("Location", "http://127.0.0.1:1/elsewhere")
    request.send_header("Content-Length", "0")
    request.end_headers()
