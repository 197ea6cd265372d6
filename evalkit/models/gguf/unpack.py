"""A model of plain weights from a GGUF file: each tensor unpacked as its format says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from evalkit.errors import ModelError
from evalkit.models.checkpoint import read_config
from evalkit.models.gguf.header import GgufHeader
from evalkit.models.gguf.names import (
    HEAD,
    ROTATION,
    architecture_of,
    as_float32,
    gguf_names,
    in_model_order,
)
from evalkit.models.loading import load_causal_lm
from evalkit.models.shapes import meta_model

_EXACT = {"F16": torch.float16, "BF16": torch.bfloat16}


def load_gguf(
    header: GgufHeader, source: Path, *, dtype: torch.dtype, device: str
) -> PreTrainedModel:
    """The weights of a file, unpacked into `dtype`, in the architecture of the directory `source`.

    Raises ModelError where the file lacks a weight of the model, holds it in another shape, or
    holds tensors that the model does not have: nothing is left as it was initialised.
    """
    # A file without a head of its own has the embedding for it, whatever config.json says.
    settings = AutoConfig.from_pretrained(source)
    settings.tie_word_embeddings = HEAD not in header.tensors
    config = read_config(source) | {"tie_word_embeddings": HEAD not in header.tensors}
    return load_causal_lm(
        source,
        dtype=dtype,
        device=device,
        config=settings,
        state_dict=dict(unpacked_tensors(header, config, dtype)),
    )


def unpacked_tensors(
    header: GgufHeader, config: dict[str, Any], dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of the model of config.json `config`, with its name in transformers.

    In `dtype`, else in the smallest that holds its values exactly.
    """
    parameters = dict(meta_model(config).named_parameters())
    names = gguf_names(architecture_of(config), config["num_hidden_layers"], parameters)
    _check_names(header, set(names.values()))
    with header.path.open("rb") as data:
        for name, theirs in names.items():
            tensor = header.tensors[theirs]
            data.seek(tensor.offset)
            values = as_float32(data.read(tensor.bytes), tensor.type, tensor.shape)
            rows = torch.from_numpy(in_model_order(theirs, values, config).copy())
            yield name, rows.to(dtype or _EXACT.get(tensor.type, torch.float32))


def _check_names(header: GgufHeader, wanted: set[str]) -> None:
    own = set(header.tensors) - {ROTATION}
    path = header.path
    for who, names, of in (
        (f"{path} lacks", wanted - own, ""),
        ("the model does not know", own - wanted, f" of {path}"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(
                f"{who} the tensor {min(names)}{more}{of}: give a file that was made from this"
                " model"
            )
