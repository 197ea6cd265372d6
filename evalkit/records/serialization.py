"""Records as JSON and back, and the hash of their content."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from typing import Any, Literal, TypeVar, cast

T = TypeVar("T")


def to_json(record: Any) -> Any:
    """A record as plain dictionaries, lists and scalars."""
    return json.loads(json.dumps(dataclasses.asdict(record)))


def from_json(kind: type[T], content: Any) -> T:
    """Build the record `kind` from what `to_json` made; unknown keys are ignored.

    Raises KeyError, TypeError or ValueError on content of another shape.
    """
    return cast(T, _build(kind, content))


def content_hash(content: Any, length: int = 16) -> str:
    """First `length` hex digits of the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of a record's fields; evaluating them takes longer than building it."""
    return typing.get_type_hints(kind)


def _build(kind: Any, content: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return content
    if content is None:
        if origin in (typing.Union, types.UnionType) and type(None) in arguments:
            return None
        raise TypeError(f"a value is missing where {kind} is expected")
    if dataclasses.is_dataclass(kind):
        hints = _hints(cast(Any, kind))
        known = {f.name: f for f in dataclasses.fields(kind)}
        return cast(Any, kind)(**{k: _build(hints[k], v) for k, v in content.items() if k in known})
    if origin in (typing.Union, types.UnionType):
        options = [a for a in arguments if a is not type(None)]
        return _build(options[0], content) if len(options) == 1 else content
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_build(arguments[0], item) for item in content)
        return tuple(_build(a, item) for a, item in zip(arguments, content, strict=True))
    if origin is dict and len(arguments) == 2:
        return {key: _build(arguments[1], value) for key, value in content.items()}
    if origin is Literal:
        if content not in arguments:
            raise ValueError(f"{content!r} is not one of {arguments}")
        return content
    if kind is float and isinstance(content, int):
        return float(content)
    if kind in (int, float, str, bool) and not isinstance(content, kind):
        raise TypeError(f"{content!r} is not {kind.__name__}")
    if kind is int and abs(content) >= 2**63:
        raise ValueError("a number has more than 64 bits")
    return content
