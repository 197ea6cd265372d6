"""What the tests of GGUF files ask for: a file of the tiny Llama, by ggml's name of a type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Written = Callable[[str], Path]
