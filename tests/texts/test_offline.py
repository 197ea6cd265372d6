"""Offline means no name is looked up and nothing is connected to."""

from __future__ import annotations

import socket
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest

from evalkit.texts.offline import network_forbidden


def test_no_connection_and_no_lookup_inside_the_block() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with network_forbidden():
            with pytest.raises(ConnectionError, match="not used offline"):
                socket.create_connection(address)
            with pytest.raises(ConnectionError, match="not used offline"):
                socket.getaddrinfo("localhost", 80)
        socket.create_connection(address).close()


def test_local_sockets_stay_open_and_settings_come_back(tmp_path: Path) -> None:
    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        with network_forbidden():
            assert datasets.config.HF_HUB_OFFLINE
            assert huggingface_hub.constants.HF_HUB_OFFLINE
            client.connect(path)
    assert before == (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)


def test_inactive_block_forbids_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, network_forbidden(False):
        socket.create_connection(server.getsockname()).close()
