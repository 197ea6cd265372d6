"""Working without the network, and being sure of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_ASKING = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.connect"})
_blocks: list[object] = []


@contextmanager
def network_forbidden(active: bool = True) -> Iterator[None]:
    """Inside the block this process looks up no host name and connects to nothing.

    The Hugging Face libraries are told to use their caches; whatever still asks for the network
    gets a ConnectionError. Sockets of the local machine (AF_UNIX) stay open.
    """
    if not active:
        yield
        return
    import datasets
    import huggingface_hub.constants

    _install()
    # Both libraries read HF_HUB_OFFLINE once, at import, so their constants are set instead.
    modules = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    block = object()
    _blocks.append(block)
    try:
        yield
    finally:
        _blocks.remove(block)
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


@cache
def _install() -> None:
    """Add the audit hook, once: a hook cannot be removed, so it looks whether a block is open."""
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _blocks or event not in _ASKING:
        return
    if event == "socket.connect" and not isinstance(arguments[1], tuple):
        return  # the address of an AF_UNIX socket is a path
    raise ConnectionError("the network is not used offline")
