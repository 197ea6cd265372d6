"""HTML pages from the templates beside this file: everything from models and data is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from evalkit.numbers import clean


def templates(**filters: Callable[[Any], str]) -> Environment:
    """The templates with the filter `clean` and further `filters`."""
    environment = Environment(
        loader=PackageLoader("evalkit.view"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"clean": clean, **filters}
    return environment


def asset(name: str) -> str:
    """The text of a stylesheet or script of the templates."""
    folder = resources.files("evalkit.view") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """What a content security policy calls the inline `script` that alone may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
