"""Reading safetensors headers: which tensors a checkpoint holds, without loading them.

The format: 8 bytes little-endian header length, a JSON header, then the tensors' bytes
(https://github.com/huggingface/safetensors, "Format"). Imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evalkit.errors import ModelError

# The limit of the safetensors library itself; a larger length is a broken or hostile file.
MAX_HEADER_BYTES = 100_000_000


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Map tensor name to {"dtype", "shape", "data_offsets"} of one safetensors file.

    Raises ModelError where the header is not valid or the file is shorter than it says; the
    header's length is checked against the file's size before anything is allocated.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise ModelError(
                    f"{path} is no whole safetensors file: {size} bytes, header of {length} bytes; "
                    "download or copy it again"
                )
            header = json.loads(file.read(length))
            tensors = {k: v for k, v in header.items() if k != "__metadata__"}
            expected = 8 + length + max((v["data_offsets"][1] for v in tensors.values()), default=0)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(
            f"{path} has no valid safetensors header: download or copy it again"
        ) from error
    if size < expected:
        raise ModelError(
            f"{path} is truncated: {size} bytes of {expected}; download or copy it again"
        )
    return tensors
