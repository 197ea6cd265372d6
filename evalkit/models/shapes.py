"""The linear layers of a model's decoder and their widths, known before anything is loaded."""

from __future__ import annotations

import re
from typing import Any

from evalkit.errors import ModelError
from evalkit.models.resolve import Checkpoint
from evalkit.models.safetensors_header import read_header

Shape = tuple[int, int]
_IN_DECODER = re.compile(r"(^|\.)(layers|h|blocks)\.\d+\.")
# Routers of mixtures of experts decide with a handful of weights; no method quantizes them.
ROUTERS = ("router", "gate")


def decoder_shapes(checkpoint: Checkpoint) -> dict[str, Shape]:
    """Map each linear layer of the decoder layers to (outputs, inputs).

    Read from the headers of the safetensors files; where there are none (random weights), from
    the architecture on the meta device. Embeddings, output head and routers are not among them.
    """
    if checkpoint.weight_files and checkpoint.weight_files[0].suffix == ".safetensors":
        shapes = _shapes_in_files(checkpoint)
    else:
        shapes = decoder_linears(meta_model(checkpoint.config))
    return {name: shape for name, shape in shapes.items() if not is_router(name)}


def is_router(name: str) -> bool:
    """Whether the module `name` is the router of a mixture of experts."""
    return name.rpartition(".")[2] in ROUTERS


def decoder_linears(model: Any) -> dict[str, Shape]:
    """Map each linear layer of the decoder layers of `model` to (outputs, inputs), routers not."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found: dict[str, Shape] = {}
    for name, module in model.named_modules():
        if not _IN_DECODER.search(name) or is_router(name):
            continue
        if isinstance(module, nn.Linear):
            found[name] = module.out_features, module.in_features
        elif isinstance(module, Conv1D):
            found[name] = module.nf, module.nx
    return found


def meta_model(config: dict[str, Any]) -> Any:
    """The architecture of config.json `config` on the meta device: shapes without memory.

    Raises ModelError for a configuration transformers cannot build.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    import evalkit.models.phi3_small  # noqa: F401  registers the architecture

    plain = {k: v for k, v in config.items() if k not in ("quantization_config", "auto_map")}
    model_type = str(plain.pop("model_type", ""))
    errors = (ValueError, KeyError, TypeError, AttributeError, AssertionError)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **plain))
    except (*errors, StrictDataclassError) as error:
        raise ModelError(f"the configuration of {model_type!r} cannot be built: {error}") from error


def _shapes_in_files(checkpoint: Checkpoint) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for file in checkpoint.weight_files:
        for name, tensor in read_header(file).items():
            module, _, kind = name.rpartition(".")
            if kind == "weight" and _IN_DECODER.search(module) and len(tensor["shape"]) == 2:
                shapes[module] = (int(tensor["shape"][0]), int(tensor["shape"][1]))
    return dict(sorted(shapes.items(), key=lambda item: _in_order(item[0])))


def _in_order(name: str) -> list[tuple[int, str]]:
    """Sort layer 10 after layer 2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
