"""Identity is content: not path, not shard names, not timestamps."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from evalkit.models import identity
from evalkit.models.identity import FileHashes, checkpoint_identity, copy_tokenizer, tokenizer_files


def write(path: Path, weights: dict[str, bytes]) -> tuple[Path, list[Path]]:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("tokens")
    for name, content in weights.items():
        (path / name).write_bytes(content)
    return path, [path / name for name in weights]


def test_the_same_content_elsewhere_under_other_shard_names_is_the_same(tmp_path: Path) -> None:
    one = write(tmp_path / "a", {"model-1.safetensors": b"x", "model-2.safetensors": b"y"})
    two = write(tmp_path / "b", {"part-1.safetensors": b"y", "part-2.safetensors": b"x"})
    assert checkpoint_identity(*one) == checkpoint_identity(*two)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "w", "cl100k_base.tiktoken"])
def test_a_changed_file_changes_it(tmp_path: Path, name: str) -> None:
    path, weights = write(tmp_path / "a", {"w": b"x"})
    before = checkpoint_identity(path, weights)
    (path / name).write_text("other")
    assert checkpoint_identity(path, weights) != before


def test_a_file_that_is_no_part_of_the_model_does_not_change_it(tmp_path: Path) -> None:
    path, weights = write(tmp_path / "a", {"w": b"x"})
    before = checkpoint_identity(path, weights)
    (path / "README.md").write_text("words")
    assert checkpoint_identity(path, weights) == before


def test_equal_bytes_in_another_role_are_another_identity(tmp_path: Path) -> None:
    path, weights = write(tmp_path / "a", {"w": b"x"})
    swapped, swapped_weights = write(tmp_path / "b", {"w": b"tokens"})
    (swapped / "tokenizer.json").write_text("x")
    assert checkpoint_identity(path, weights) != checkpoint_identity(swapped, swapped_weights)


def test_hashes_are_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, cache = tmp_path / "w", tmp_path / "store" / "hashes.json"
    file.write_bytes(b"x" * 10)
    reads: list[Path] = []
    original = identity._sha256
    monkeypatch.setattr(identity, "_sha256", lambda path: (reads.append(path), original(path))[1])
    for _ in range(2):
        hashes = FileHashes(cache)
        assert hashes.sha256(file) == hashlib.sha256(b"x" * 10).hexdigest()
        hashes.save()
    assert len(reads) == 1
    file.write_bytes(b"y" * 10)
    os.utime(file, ns=(1, 1))
    assert FileHashes(cache).sha256(file) == hashlib.sha256(b"y" * 10).hexdigest()


@pytest.mark.parametrize("content", ["", "[]", "not json", '{"a": 1}', '{"a": [1]}'])
def test_a_broken_cache_is_no_obstacle(tmp_path: Path, content: str) -> None:
    file, cache = tmp_path / "w", tmp_path / "hashes.json"
    file.write_bytes(b"x")
    cache.write_text(content)
    hashes = FileHashes(cache)
    assert hashes.sha256(file) == hashlib.sha256(b"x").hexdigest()
    hashes.save()
    assert str(file.resolve()) in json.loads(cache.read_text())


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"x")
    (tmp_path / "file").touch()
    hashes = FileHashes(tmp_path / "file" / "hashes.json")
    hashes.sha256(tmp_path / "w")
    hashes.save()


def test_the_hub_cache_names_large_files_by_their_hash(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"large").hexdigest()
    blob = tmp_path / "blobs" / digest
    blob.parent.mkdir()
    # Not the content the name promises: the name is trusted, the file is not read.
    blob.write_bytes(b"unread")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert FileHashes().sha256(link) == digest
    short = tmp_path / "blobs" / ("a" * 40)
    short.write_bytes(b"{}")
    (tmp_path / "config.json").symlink_to(short)
    assert FileHashes().sha256(tmp_path / "config.json") == hashlib.sha256(b"{}").hexdigest()


def test_tokenizer_files_are_found_and_copied(tmp_path: Path) -> None:
    source, out = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    out.mkdir()
    names = ["cl100k_base.tiktoken", "sentencepiece.bpe.model", "tekken.json", "tokenizer.json"]
    names += ["tokenizer_config.json"]
    beside = ["additional_chat_templates/tools.jinja", "tokenization_own.py"]
    (source / "additional_chat_templates").mkdir()
    for name in (*names, *beside, "config.json", "LICENSE.txt"):
        (source / name).write_text(name)
    assert [file.name for file in tokenizer_files(source)] == names
    copy_tokenizer(source, out)
    copied = [str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()]
    assert sorted(copied) == sorted([*names, *beside])
