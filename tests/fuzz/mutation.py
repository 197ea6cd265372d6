"""Inputs from inputs: bytes changed, structure changed, and what parsers stumble over."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

TOKENS: tuple[bytes, ...] = (
    b"{", b"}", b"[", b"]", b'"', b":", b",", b"=", b"@", b"null", b"true", b"NaN", b"1e999",
    b"-1", b"0", b"9" * 30, b"1" + b"0" * 5000, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800",
    b"\x1b[31m", b"../" * 8, b"/etc/passwd", b"!!python/object/apply:os.system [true]", b"&a ",
    b"*a", b"<<: ", b"\r\n", b"\xe2\x80\xa8", b"[" * 1200, b'{"a":' * 1200, b"!function os.system",
    b"<script>", b"%s%n", b"(" * 300, b"- " * 400,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**12, 10**400, 1.5, float("nan"), "", "x" * 2000, "../../x", "\ud800",
    [], {}, [[]], [None], {"": None}, {"shape": [10**18]},
)  # fmt: skip


def mutated(seeds: Sequence[bytes], generator: random.Random) -> bytes:
    """A seed changed once to eight times, in its JSON where it has one or in its bytes."""
    data = generator.choice(seeds)
    if generator.random() < 0.5 and (changed := _in_json(data, generator)) is not None:
        data = changed
        if generator.random() < 0.7:
            return data
    for _ in range(generator.randint(1, 8)):
        data = _in_bytes(data, generator)
    return data


def _in_bytes(data: bytes, generator: random.Random) -> bytes:
    at, end = sorted(generator.randint(0, len(data)) for _ in range(2))
    kind = generator.randrange(5)
    if kind == 0:
        return data[:at] + generator.choice(TOKENS) + data[at:]
    if kind == 1:
        return data[:at] + generator.choice(TOKENS) + data[end:]
    if kind == 2:
        return data[:at] + bytes([generator.randrange(256)]) + data[at + 1 :]
    if kind == 3:
        return data[:at] + data[at:end] * generator.randint(0, 3) + data[end:]
    return data[:end]


def _in_json(data: bytes, generator: random.Random) -> bytes | None:
    """`data` with one value of its JSON replaced, removed or renamed; None where it has none.

    JSON may stand behind 8 bytes of length, which are kept right.
    """
    for start in (0, 8):
        try:
            content = json.loads(data[start:].split(b"\n")[0].rstrip(b"\0"))
        except ValueError:
            continue
        for _ in range(generator.randint(1, 3)):
            content = _changed(content, generator)
        text = json.dumps(content).encode()
        return len(text).to_bytes(8, "little") + text + bytes(8) if start else text
    return None


def _changed(content: Any, generator: random.Random) -> Any:
    if isinstance(content, dict) and content and generator.random() < 0.9:
        key = generator.choice(sorted(content))
        if generator.random() < 0.1:
            return {("z" if k == key else k): v for k, v in content.items()}
        return {**content, key: _changed(content[key], generator)}
    if isinstance(content, list) and content and generator.random() < 0.9:
        at = generator.randrange(len(content))
        return [*content[:at], _changed(content[at], generator), *content[at + 1 :]]
    return generator.choice(VALUES)
