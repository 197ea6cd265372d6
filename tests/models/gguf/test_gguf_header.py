"""Reading a GGUF file's header: against the package gguf's own reader, and broken files."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import pytest
from gguf_files import Written

from evalkit.errors import ModelError
from evalkit.models.gguf.header import read_gguf_header


def test_it_reads_what_the_package_gguf_reads(written: Written) -> None:
    header, other = read_gguf_header(written("Q4_1")), gguf.GGUFReader(written("Q4_1"))
    for name, field in other.fields.items():
        if not name.startswith("GGUF."):
            assert header.metadata[name] == field.contents(), name
    assert list(header.tensors) == [tensor.name for tensor in other.tensors]
    for theirs in other.tensors:
        own = header.tensors[theirs.name]
        assert own.shape == tuple(reversed(theirs.shape.tolist()))
        assert (own.type, own.offset, own.bytes) == (
            theirs.tensor_type.name, theirs.data_offset, theirs.n_bytes,
        )  # fmt: skip


def test_its_bytes_are_those_of_the_file(written: Written) -> None:
    header = read_gguf_header(written("Q8_0"))
    first = min(tensor.offset for tensor in header.tensors.values())
    assert first + header.tensor_bytes == header.path.stat().st_size
    assert sum(header.weight_bytes.values()) == header.tensor_bytes
    assert header.types == "Q8_0 16, F32 5"
    assert header.file_type == "Q8_0"


def test_bytes_are_counted_by_the_types_of_tensors_not_by_the_files_name(
    written: Written, tmp_path: Path
) -> None:
    """A file that says it is Q4_0 and holds Q8_0."""
    data = bytearray(written("Q8_0").read_bytes())
    at = data.index(b"general.file_type") + len("general.file_type") + 4
    data[at : at + 4] = struct.pack("<I", gguf.LlamaFileType.MOSTLY_Q4_0)
    (fake := tmp_path / "Q4_0.gguf").write_bytes(data)
    header = read_gguf_header(fake)
    assert header.file_type == "Q4_0"
    assert header.weight_bytes == read_gguf_header(written("Q8_0")).weight_bytes


@pytest.mark.parametrize("kept", [3, 30, 2000, -100])
def test_a_file_that_is_cut_off_is_refused(written: Written, tmp_path: Path, kept: int) -> None:
    (short := tmp_path / "short.gguf").write_bytes(written("Q8_0").read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"short\.gguf is no (whole )?GGUF file"):
        read_gguf_header(short)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no whole GGUF file"),
        (b"PK\x03\x04" * 10, "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "no whole GGUF file"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), "no whole GGUF file"),
        (b"GGUF" + struct.pack("<IQQQcIIQ", 3, 0, 1, 1, b"a", 9, 4, 2**61), "no whole GGUF file"),
        (b"GGUF" + struct.pack("<IQQQcI", 3, 0, 1, 1, b"a", 77), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQQcIQIQ", 3, 1, 0, 1, b"a", 1, 32, 999, 0), "ggml's type 999"),
        (b"GGUF" + struct.pack("<IQQQcIQIQ", 3, 1, 0, 1, b"a", 1, 33, 8, 0), "whole blocks of 32"),
    ],
)
def test_what_is_no_gguf_file_is_refused_in_one_line(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (file := tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        read_gguf_header(file)
