"""What a checkpoint is: the content of its files, not its path or name. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

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
)
_SHA256_NAME = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 22


def checkpoint_identity(
    path: Path, weight_files: Iterable[Path], hash_cache: Path | None = None
) -> str:
    """SHA-256 (hex) over the sorted (role, SHA-256) of config, weights and tokenizer files.

    The shards' names play no part, only their content. `hash_cache` is a JSON file that keeps
    hashes by path, size and modification time, so that large files are read once.
    """
    hashes = FileHashes(hash_cache)
    roles = [("config", hashes.sha256(path / "config.json"))]
    roles += [("weights", hashes.sha256(file)) for file in weight_files]
    roles += [(f"tokenizer/{f.name}", hashes.sha256(f)) for f in tokenizer_files(path)]
    hashes.save()
    return hashlib.sha256(json.dumps(sorted(roles)).encode()).hexdigest()


def tokenizer_files(path: Path) -> list[Path]:
    """The files of the directory `path` that define the tokenizer, sorted by name."""
    named = [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
    return sorted([*named, *path.glob("*.tiktoken")])


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy the tokenizer of the checkpoint `source` beside weights written into `out`."""
    for file in tokenizer_files(source):
        shutil.copyfile(file, out / file.name)


class FileHashes:
    """SHA-256 of files, remembered in the JSON file `cache` by (path, size, mtime_ns)."""

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
        stamp: list[int | str] = [status.st_size, status.st_mtime_ns]
        known = self._known.get(str(target))
        if known is not None and known[:2] == stamp:
            return str(known[2])
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
    return {k: v for k, v in content.items() if isinstance(v, list) and len(v) == 3}
