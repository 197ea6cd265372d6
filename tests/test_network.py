"""The hub is asked once, for a short time, and whatever answers is an answer."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

from evalkit import network
from evalkit.errors import DataError, ModelError
from evalkit.models import hub
from evalkit.texts.documents import load_text

Asked = Callable[[Exception | None], list[str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """Lets every request end in an error, or be answered; returns the list of requests."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    network.hub_answers.cache_clear()

    def answer(error: Exception | None) -> list[str]:
        requests: list[str] = []

        def urlopen(request: Any, timeout: float) -> Any:
            requests.append(request.full_url)
            if error is not None:
                raise error
            return threading.Lock()

        monkeypatch.setattr("urllib.request.urlopen", urlopen)
        return requests

    yield answer
    network.hub_answers.cache_clear()


@pytest.mark.parametrize(
    ("error", "answers"),
    [
        (None, True),
        (HTTPError("https://hub", 503, "busy", None, None), True),  # type: ignore[arg-type]
        (URLError(ssl.SSLCertVerificationError("unknown authority")), True),
        (URLError(OSError("Name or service not known")), False),
        (TimeoutError(), False),
        (ConnectionResetError(), False),
    ],
)
def test_it_is_asked_once(asked: Asked, error: Exception | None, answers: bool) -> None:
    requests = asked(error)
    assert [network.hub_answers() for _ in range(3)] == [answers] * 3
    assert len(requests) == 1


def test_a_silent_name_server_is_left_behind(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = threading.Event()
    monkeypatch.setattr(network, "SECONDS", 0.01)

    def urlopen(*_: object, **__: object) -> None:
        silent.wait()
        raise TimeoutError

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert network.hub_answers() is False
    silent.set()


def test_offline_nobody_is_asked(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = asked(None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not network.hub_answers()
    assert requests == []


def test_without_a_network_texts_and_models_ask_no_library(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = asked(URLError(OSError("Name or service not known")))
    tried: list[str] = []
    monkeypatch.setattr("httpx.Client.send", lambda *_, **__: tried.append("request"))
    with pytest.raises(DataError, match="not in the local cache and the hub does not answer"):
        load_text("hf:evalkit-tests/not-a-dataset")
    with pytest.raises(ModelError, match="no answer within 2 s"):
        hub.download(
            "evalkit-tests/none", offline=False, allow_pickle=False, trust_remote_code=False
        )
    with pytest.raises(ModelError, match="does not answer within 2 s"):
        hub.download_bytes("evalkit-tests/none")
    assert (len(requests), tried) == (1, [])
