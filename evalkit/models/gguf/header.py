"""What a GGUF file says of itself: metadata and the table of its tensors, without their values.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader of the package
`gguf` makes an array of every word of the vocabulary, which takes seconds. Imports no torch.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from evalkit.errors import ModelError

SUFFIX = ".gguf"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MOST_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
# struct's format of numbers, by their type in the file.
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a file: `shape` as torch has it, outputs first; `offset` in the file.

    `type` is ggml's name of how it is held ("Q4_1"), `bytes` what it takes in the file.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """Metadata by their keys and tensors by their names."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture ("llama")."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def file_type(self) -> str:
        """The preset that the file says it was made by ("Q4_K_M"); "" where it names none."""
        try:
            name = LlamaFileType(self.metadata.get("general.file_type", -1)).name
        except ValueError:
            return ""
        return name.removeprefix("ALL_").removeprefix("MOSTLY_")

    @property
    def tokens(self) -> list[str]:
        """The words of the vocabulary in the order of their ids."""
        return list(self.metadata.get("tokenizer.ggml.tokens", ()))

    @cached_property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, without metadata and the gaps between them."""
        return sum(tensor.bytes for tensor in self.tensors.values())

    @property
    def types(self) -> str:
        """How many tensors are held in which type: "Q4_1 210, F32 61, Q8_0 1"."""
        counts = Counter(tensor.type for tensor in self.tensors.values())
        return ", ".join(f"{name} {count}" for name, count in counts.most_common())

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of the tensors by category: packed are matrices in blocks, with their scales."""
        found: Counter[str] = Counter()
        for tensor in self.tensors.values():
            found[_category(tensor)] += tensor.bytes
        return dict(sorted(found.items()))

    @property
    def quantized_weights(self) -> tuple[int, int]:
        """Bytes of the packed matrices, and how many weights they stand for."""
        packed = [one for one in self.tensors.values() if _category(one) == "packed"]
        return sum(one.bytes for one in packed), sum(prod(one.shape) for one in packed)

    def bits(self, *categories: str) -> float:
        """Bits an element of the tensors of some categories; 0 where there are none."""
        own = [one for one in self.tensors.values() if _category(one) in categories]
        elements = sum(prod(one.shape) for one in own)
        return 8 * sum(one.bytes for one in own) / elements if elements else 0.0

    def of_model(self, key: str, default: Any = None) -> Any:
        """The hyperparameter `key`, which is written behind the architecture's name."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def _category(tensor: GgufTensor) -> str:
    if tensor.name in ("token_embd.weight", "output.weight"):
        return "head" if tensor.name == "output.weight" else "embedding"
    if len(tensor.shape) > 1:
        return "linear" if tensor.type in ("F32", "F16", "BF16") else "packed"
    return (
        "norm"
        if "norm" in tensor.name
        else tensor.name.rpartition(".")[2].replace("weight", "other")
    )


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of `path`.

    Raises ModelError in one line for what is no whole GGUF file, or one with tensors of a type
    that is not known here.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _header(path, _Cursor(path, data, size))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, struct.error, RecursionError, OverflowError, MemoryError) as error:
        raise _broken(path, "its header is not valid") from error
    for tensor in header.tensors.values():
        if tensor.offset + tensor.bytes > size:
            raise _broken(path, f"{size} bytes end before {tensor.name}")
    return header


def _broken(path: Path, why: str) -> ModelError:
    return ModelError(f"{path} is no whole GGUF file ({why}): download or copy it again")


class _Cursor:
    """A place in the bytes of the file, which moves on with every value that is read."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size, self.at = path, data, size, 0

    def take(self, count: int) -> int:
        """Move on by `count` bytes; where they begin."""
        begin, self.at = self.at, self.at + count
        if self.at > self.size:
            raise _broken(self.path, "its header is cut off")
        return begin

    def numbers(self, kind: str, count: int = 1) -> tuple[Any, ...]:
        """`count` numbers of struct's format `kind`."""
        begin = self.take(count * struct.calcsize(f"<{kind}"))
        return struct.unpack_from(f"<{count}{kind}", self.data, begin)

    def string(self) -> str:
        """A string behind its length."""
        (length,) = self.numbers("Q")
        begin = self.take(length)
        return self.data[begin : begin + length].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A value of metadata of the type `kind`."""
        if kind in _NUMBERS:
            return self.numbers(_NUMBERS[kind])[0]
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise _broken(self.path, f"metadata of the unknown type {kind}")
        (inner,), (count,) = self.numbers("I"), self.numbers("Q")
        if inner in _NUMBERS:
            return list(self.numbers(_NUMBERS[inner], count))
        # Each takes bytes, so that no count is believed beyond the end of the file.
        return [self.value(inner) for _ in range(count)]


def _header(path: Path, cursor: _Cursor) -> GgufHeader:
    magic = cursor.take(4)
    if cursor.data[magic:4] != b"GGUF":
        raise ModelError(f"{path} is no GGUF file: it does not begin with GGUF")
    (version,) = cursor.numbers("I")
    if version not in _VERSIONS:
        raise ModelError(f"{path} is GGUF version {version}: known are 2 and 3; convert it again")
    tensor_count, value_count = cursor.numbers("Q", 2)
    metadata = {}
    for _ in range(value_count):
        key = cursor.string()
        metadata[key] = cursor.value(*cursor.numbers("I"))
    table = [_entry(path, cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise _broken(path, f"general.alignment {alignment!r}")
    begin = -(-cursor.at // alignment) * alignment
    tensors = {
        name: GgufTensor(name, shape, kind.name, begin + offset, _bytes(path, name, shape, kind))
        for name, shape, kind, offset in table
    }
    return GgufHeader(path, metadata, tensors)


def _entry(path: Path, cursor: _Cursor) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
    name = cursor.string()
    (dimensions,) = cursor.numbers("I")
    if dimensions > _MOST_DIMENSIONS:
        raise _broken(path, f"{name} has {dimensions} dimensions")
    # ggml writes the dimension first whose elements lie side by side.
    shape = tuple(reversed(cursor.numbers("Q", dimensions)))
    (number,), (offset,) = cursor.numbers("I"), cursor.numbers("Q")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise ModelError(
            f"{path} holds {name} in ggml's type {number}, which the installed package gguf does"
            " not know: pip install -U gguf"
        ) from None
    return name, shape, kind, offset


def _bytes(path: Path, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    block, size = GGML_QUANT_SIZES[kind]
    if not shape or shape[-1] % block:
        raise _broken(path, f"{name} of {kind.name} has rows of no whole blocks of {block}")
    return prod(shape) // block * size
