"""HTTP to a server that is not trusted: every answer is bounded in size and time.

Standard library only; no redirects, no proxies, no cookies. A key is read from the environment
variable that the user names, sent in one header, and removed from everything that is shown.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from evalkit.errors import UsageError, VariantError

MOST_BYTES = 64 * 2**20
MOST_LINE = 2**20
CONNECT_SECONDS = 10.0
_SHOWN = 200
_FAILURES = (OSError, http.client.HTTPException, ValueError, RecursionError)


class ServerError(VariantError):
    """A server that cannot be reached, refuses, or answers what cannot be used."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Address:
    """Where a server's API lies: `url` up to and including /v1; the key's environment variable."""

    url: str
    key_variable: str = ""
    seconds: float = 120.0

    @property
    def key(self) -> str:
        """The key; raises ServerError where the variable is named and not set."""
        if not self.key_variable:
            return ""
        key = os.environ.get(self.key_variable, "")
        if not key:
            raise ServerError(
                f"the environment variable {self.key_variable} is not set: key_env names the one "
                "that holds the server's key"
            )
        return key

    def shown(self, text: str) -> str:
        """Foreign text fit for a line of a terminal: no control codes, no key, not long."""
        key = os.environ.get(self.key_variable, "") if self.key_variable else ""
        clean = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * _SHOWN])
        clean = " ".join(clean.replace(key, "***").split() if key else clean.split())
        return clean[:_SHOWN] + ("…" if len(clean) > _SHOWN else "")


def parse_url(text: str) -> str:
    """The API's base of a server's URL, "/v1" added where there is no path.

    Raises UsageError for anything but http(s)://HOST[:PORT][/PATH]; a URL holds no password.
    """
    try:
        parts = urlsplit(text)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        wrong = True
    if wrong or any(letter.isspace() or not letter.isprintable() for letter in text):
        raise UsageError(
            f"url={text!r} is no server: write http://HOST:PORT, for example /v1 added"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "the url holds a user, password or query: give http://HOST:PORT and name the key's "
            "environment variable with key_env=NAME"
        )
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def call(address: Address, path: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON answer to a GET, or to a POST of `body`; raises ServerError in one line."""
    with _answer(address, path, body) as response:
        return _parsed(address, _read(address, response))


def stream(address: Address, path: str, body: dict[str, Any]) -> Iterator[tuple[float, Any]]:
    """Server-sent events of a POST: (seconds since it was sent, JSON), up to `[DONE]`.

    Some servers only close the connection after a piece with a finish_reason.

    Raises ServerError where the stream breaks off, or goes on without end.
    """
    begun = time.perf_counter()
    with _answer(address, path, body) as response:
        left, finished = MOST_BYTES, False
        while True:
            line = response.readline(MOST_LINE)
            left -= len(line)
            if left < 0 or len(line) >= MOST_LINE:
                raise ServerError(f"{address.url} streams more than is read here: stopped")
            if not line and finished:
                return
            if not line:
                raise ServerError(f"{address.url} broke off in the middle of a stream")
            name, _, data = line.strip().partition(b":")
            if name != b"data":
                continue
            if data.strip() == b"[DONE]":
                return
            event = _parsed(address, data)
            if isinstance(event, dict) and event.get("error"):
                said = address.shown(json.dumps(event["error"]))
                raise ServerError(f"{address.url} broke off a stream: {said}")
            finished = finished or _finishes(event)
            yield time.perf_counter() - begun, event


def _finishes(event: Any) -> bool:
    choices = event.get("choices") if isinstance(event, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and first.get("finish_reason") is not None


@contextmanager
def _answer(
    address: Address, path: str, body: dict[str, Any] | None
) -> Iterator[http.client.HTTPResponse]:
    """The open answer to one request, closed by a watchdog after the address's seconds."""
    connection = _connection(address)
    late = threading.Event()
    key = address.key

    def cut() -> None:
        late.set()
        sock = connection.sock
        if sock is not None:
            with _ignored(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    watchdog = threading.Timer(address.seconds, cut)
    watchdog.daemon = True
    try:
        connection.connect()
        watchdog.start()
        if connection.sock is not None:
            connection.sock.settimeout(address.seconds)
        headers = {"Accept": "application/json, text/event-stream"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        content = None
        if body is not None:
            content = json.dumps(body)
            headers["Content-Type"] = "application/json"
        base = urlsplit(address.url).path
        connection.request("GET" if body is None else "POST", base + path, content, headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            said = address.shown(response.read(_SHOWN * 8).decode("utf-8", "replace"))
            line = f"{address.url}{path} answers {response.status}: {said or 'nothing'}"
            raise ServerError(line, response.status)
        yield response
    except _FAILURES as error:
        raise ServerError(_reason(address, error, late.is_set())) from error
    except ServerError as error:
        if late.is_set():
            raise ServerError(_reason(address, error, late=True)) from error
        raise
    finally:
        watchdog.cancel()
        connection.close()


def _connection(address: Address) -> http.client.HTTPConnection:
    parts = urlsplit(address.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=min(CONNECT_SECONDS, address.seconds))


def _read(address: Address, response: http.client.HTTPResponse) -> bytes:
    content = response.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ServerError(
            f"{address.url} answers with more than {MOST_BYTES // 2**20} MB: not read any further"
        )
    return content


def _parsed(address: Address, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        said = address.shown(content[: 4 * _SHOWN].decode("utf-8", "replace"))
        raise ServerError(f"{address.url} answers what is no JSON: {said or 'nothing'}") from error


def _reason(address: Address, error: BaseException, late: bool) -> str:
    if late or isinstance(error, TimeoutError):
        return (
            f"{address.url} did not answer in full within {address.seconds:g} s: raise timeout=, "
            "or see what the server does"
        )
    if isinstance(error, ConnectionRefusedError):
        return f"{address.url} is not there (connection refused): start the server, or use --serve"
    said = address.shown(str(error)) or type(error).__name__
    return f"{address.url} cannot be used: {said}"


@contextmanager
def _ignored(kind: type[BaseException]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
