"""What a checkpoint is: the content of its files, not its path or name. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "tekken.json",
    "vocab.bpe",
    "normalizer.json",
)
# SentencePiece's and tiktoken's own, whatever they are called (spiece.model,
# sentencepiece.bpe.model, qwen.tiktoken).
_TOKENIZER_KINDS = ("*.model", "*.spm", "*.tiktoken")
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
GENERATION_FILE = "generation_config.json"
_SHA256_NAME = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Identity:
    """What a checkpoint is, part by part: SHA-256 (hex) of content, never of a path or name.

    `weights` are the weight files with config.json, `tokenizer` its files without the chat
    template, `chat_template` the templates wherever they stand, `generation` the settings that
    decoding takes from generation_config.json. A part that the checkpoint does not have is the
    hash of nothing. A result's key takes the parts that can change it and no others.
    """

    weights: str
    tokenizer: str = ""
    chat_template: str = ""
    generation: str = ""


def checkpoint_identity(
    path: Path, weight_files: Iterable[Path], hash_cache: Path | None = None
) -> Identity:
    """The identity of the checkpoint in the directory `path`.

    The shards' names play no part, only their content. `hash_cache` is a JSON file that keeps
    hashes by path, size, modification time and inode, so that large files are read once.
    """
    hashes = FileHashes(hash_cache)
    weights = [("config", hashes.sha256(path / "config.json"))]
    weights += [("weights", hashes.sha256(file)) for file in weight_files]
    hashes.save()
    tokenizer, templates = _tokenizer_parts(path)
    return Identity(
        weights=_digest(sorted(weights)),
        tokenizer=_digest(sorted(tokenizer)),
        chat_template=_digest(sorted(templates)),
        generation=_digest(_existing(path, [GENERATION_FILE])),
    )


def _tokenizer_parts(path: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(role, hash) of what encodes text, and of the chat templates.

    Templates stand in files of their own, or inside tokenizer_config.json.
    """
    templates = _existing(path, [f.relative_to(path).as_posix() for f in template_files(path)])
    others = [f.name for f in tokenizer_files(path) if f.name not in TEMPLATE_FILES]
    tokenizer = _existing(path, [name for name in others if name != TOKENIZER_CONFIG])
    config = path / TOKENIZER_CONFIG
    if config.is_file():
        content = _json_object(config)
        inline = content.pop("chat_template", None)
        tokenizer.append((TOKENIZER_CONFIG, _digest(content)))
        templates += [("inline", _digest(inline))] if inline else []
    return tokenizer, templates


def _existing(path: Path, names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, _sha256(path / name)) for name in names if (path / name).is_file()]


def _json_object(file: Path) -> dict[str, Any]:
    """A JSON object; the content as text under one key where the file holds something else."""
    raw = file.read_bytes()
    try:
        content = json.loads(raw)
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {"": hashlib.sha256(raw).hexdigest()}


def _digest(content: Any) -> str:
    """SHA-256 (hex) of JSON content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def template_files(path: Path) -> list[Path]:
    """The files of the directory `path` that hold chat templates."""
    named = [path / name for name in TEMPLATE_FILES if (path / name).is_file()]
    return [*named, *sorted((path / "additional_chat_templates").glob("*.jinja"))]


def tokenizer_files(path: Path) -> list[Path]:
    """The files of the directory `path` that define the tokenizer, sorted by name."""
    named = [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
    return sorted({*named, *(file for kind in _TOKENIZER_KINDS for file in path.glob(kind))})


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy the tokenizer of the checkpoint `source` beside weights written into `out`.

    Chat templates and the tokenizer's own Python code are part of it.
    """
    for file in (*tokenizer_files(source), *source.glob("tokeniz*.py")):
        shutil.copyfile(file, out / file.name)
    for file in template_files(source):
        copy = out / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)


class FileHashes:
    """SHA-256 of files, remembered in the JSON file `cache` by path, size, time and inode."""

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self._known: dict[str, list[int | str]] = _read_cache(cache)
        self._changed = False

    def sha256(self, path: Path) -> str:
        """Hex digest of the content of `path`; raises OSError where it cannot be read."""
        target = path.resolve()
        # The hub's cache names large files by their SHA-256 and verifies it when downloading.
        if path.is_symlink() and _SHA256_NAME.fullmatch(target.name):
            return target.name
        status = target.stat()
        stamp: list[int | str] = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = self._known.get(str(target))
        if known is not None and known[:3] == stamp:
            return str(known[3])
        digest = _sha256(target)
        self._known[str(target)] = [*stamp, digest]
        self._changed = True
        return digest

    def save(self) -> None:
        """Write the remembered hashes; a cache that cannot be written costs only time."""
        if self._cache is None or not self._changed:
            return
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._cache.parent, prefix=".hashes")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(self._known, file)
            Path(name).replace(self._cache)
        except OSError:
            return
        self._changed = False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _read_cache(cache: Path | None) -> dict[str, list[int | str]]:
    if cache is None:
        return {}
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {k: v for k, v in content.items() if isinstance(v, list) and len(v) == 4}
