"""Whatever a server does, it ends in one line and in bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import servers

from evalkit.errors import UsageError, VariantError
from evalkit.serving import http
from evalkit.serving.client import Client
from evalkit.serving.http import Address, ServerError, parse_url

PROMPT = [1, 2, 3, 4]


def client(url: str, **more: Any) -> Client:
    return Client(Address(parse_url(url), seconds=1.0, **more), "tiny", lambda tokens: "text")


def check_line(error: pytest.ExceptionInfo[ServerError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    assert line.isprintable()
    assert len(line) < 600
    return line


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (servers.garbage, "no JSON"),
        (servers.failing, "answers 503"),
        (servers.silent, "did not answer in full within 1 s"),
        (servers.dripping, "did not answer in full within 1 s"),
        (servers.breaking_off, "cannot be used|no JSON"),
        (servers.deep, "no JSON"),
        (servers.redirecting, "answers 302"),
        (servers.without_logprobs, "no log-probabilities of the prompt"),
    ],
)
def test_an_answer_that_is_none(handler: servers.Handler, words: str) -> None:
    begun = time.monotonic()
    with servers.serving(handler) as url, pytest.raises(ServerError, match=words) as error:
        client(url).prompt_scores(PROMPT)
    check_line(error)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("setting", "ask"),
    [
        ("logprobs", lambda client: client.complete(PROMPT, {"max_tokens": 1})),
        ("ignore_eos", lambda client: client.stream(PROMPT, 1)),
    ],
)
def test_a_setting_refused_to_two_requests_at_once(
    setting: str, ask: Callable[[Client], Any]
) -> None:
    """The first request under way is refused only after a later one has learned of it."""
    first_came, another_learned = threading.Event(), threading.Event()

    def handle(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if setting in body:
            if not first_came.is_set():
                first_came.set()
                another_learned.wait(5)
            servers.send_json(request, {"error": f"{setting} is not known here"}, 400)
        elif body.get("stream"):
            servers.begin_stream(request)
            servers.send_event(request, servers.piece("a"))
            request.wfile.write(b"data: [DONE]\n\n")
        else:
            servers.send_json(request, servers.piece("a"))

    with servers.serving(handle) as url, ThreadPoolExecutor(1) as other:
        asking = Client(Address(parse_url(url), seconds=10.0), "tiny", lambda tokens: "text")
        held = other.submit(ask, asking)
        assert first_came.wait(5)
        answer = ask(asking)
        another_learned.set()
        if setting == "logprobs":
            assert held.result() == answer == "a"
        else:
            assert held.result().tokens == answer.tokens == 1


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (servers.breaking_off, "broke off"),
        (servers.endless, "more than the 8 tokens asked"),
        (servers.endless_line, "streams more than"),
        (servers.silent, "did not answer in full"),
        (servers.garbage, "broke off"),
        (servers.failing, "answers 503"),
    ],
)
def test_a_stream_that_is_none(handler: servers.Handler, words: str) -> None:
    begun = time.monotonic()
    with servers.serving(handler) as url, pytest.raises(ServerError, match=words) as error:
        client(url).stream(PROMPT, 8)
    check_line(error)
    assert time.monotonic() - begun < 5


def test_an_answer_without_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_BYTES", 2**20)

    def large(request: Any, body: Any) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b"[" * 65536)

    with servers.serving(large) as url, pytest.raises(ServerError, match="more than 1 MB"):
        client(url).prompt_scores(PROMPT)


@pytest.mark.parametrize("value", ["NaN", "1e999", "-1e999", "0.5", "true", '"-1"', "{}"])
def test_a_log_probability_that_is_none(value: str) -> None:
    def wrong(request: Any, body: Any) -> None:
        inside = f'{{"token_logprobs": [null, -1, {value}, -1, -2], "top_logprobs": null}}'
        answer = f'{{"choices": [{{"text": "a", "logprobs": {inside}}}], "usage": {{}}}}'
        servers.send_bytes(request, answer.encode())

    with servers.serving(wrong) as url, pytest.raises(VariantError, match="log-probability"):
        client(url).prompt_scores(PROMPT)


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    with servers.serving(servers.failing) as url, pytest.raises(ServerError) as error:
        client(url, key_variable="MY_KEY").prompt_scores(PROMPT)
    line = check_line(error)
    assert "Bearer ***" in line
    assert "secret" not in line
    monkeypatch.delenv("MY_KEY")
    with servers.serving(servers.failing) as url, pytest.raises(ServerError, match="MY_KEY"):
        client(url, key_variable="MY_KEY").prompt_scores(PROMPT)


def test_no_server_at_all() -> None:
    with pytest.raises(ServerError, match="connection refused"):
        client("http://127.0.0.1:9").prompt_scores(PROMPT)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("https://host/api/v1/", "https://host/api/v1"),
    ],
)
def test_urls(text: str, base: str) -> None:
    assert parse_url(text) == base


@pytest.mark.parametrize(
    "text",
    ["ftp://host", "localhost:8000", "http://", "http://user:secret@host", "http://host:99999",
     "http://host/\r\nX: y", "file:///etc/passwd", "http://host?key=secret"],
)  # fmt: skip
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_url(text)
    assert "secret" not in str(error.value)
