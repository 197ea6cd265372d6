"""The linear layers of a model's decoder and their widths, known before anything is loaded."""

from __future__ import annotations

import re
from typing import Any

from evalkit.errors import ModelError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.routers import is_router
from evalkit.models.safetensors_header import read_header

Shape = tuple[int, int]
_IN_DECODER = re.compile(r"(^|\.)(layers|h|blocks)\.\d+\.")
# Files with such names hold what is no linear layer of the text stack, or hold it otherwise than
# the model does (transposed, an expert apart): there the architecture itself is asked.
_UNUSUAL = re.compile(
    r"expert|conv|vision|visual|image|audio|tower|encoder|mamba|mixer|altup|\.c_(attn|fc|proj)\."
)


def decoder_shapes(checkpoint: Checkpoint) -> dict[str, Shape]:
    """Map each linear layer of the decoder layers to (outputs, inputs).

    Read from the headers of the safetensors files, which takes no torch; where there are none
    (random weights), or names that are no plain decoder's, from the architecture on the meta
    device. Embeddings, output head and routers are not among them.
    """
    found = _shapes_in_files(checkpoint)
    if found is not None:
        return {name: shape for name, shape in found.items() if not is_router(name)}
    return decoder_linears(meta_model(checkpoint.config))


def unpackable(checkpoint: Checkpoint) -> tuple[dict[str, int], float]:
    """Matrices of the text stack that are no linear layer and no experts, and their part of it.

    By name, in elements; none where the names in the files are those of a plain decoder.
    """
    if _shapes_in_files(checkpoint) is not None:
        return {}, 0.0
    from evalkit.models.text_stack import full_matrices, fused_experts, linear_shape

    model = meta_model(checkpoint.config)
    taken = {f"{n}.weight" for n, m in model.named_modules() if linear_shape(m) is not None}
    taken |= fused_experts(model).keys()
    sizes = {name: weight.numel() for name, weight in full_matrices(model).items()}
    left = {name: size for name, size in sizes.items() if name not in taken}
    return left, sum(left.values()) / max(1, sum(sizes.values()))


def decoder_linears(model: Any) -> dict[str, Shape]:
    """Map each linear layer of the text stack of `model` to (outputs, inputs), routers not."""
    from evalkit.models.text_stack import linear_shape, text_modules

    found = {name: linear_shape(module) for name, module in text_modules(model)}
    return {name: shape for name, shape in found.items() if shape is not None}


def meta_model(config: dict[str, Any]) -> Any:
    """The architecture of config.json `config` on the meta device: shapes without memory.

    Raises ModelError for a configuration transformers cannot build.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

    import evalkit.models.phi3_small  # noqa: F401  registers the architecture

    kept = {k: v for k, v in config.items() if k not in ("quantization_config", "auto_map")}
    # Infinity is written as an object.
    plain: dict[str, Any] = PreTrainedConfig._decode_special_floats(kept)
    model_type = str(plain.pop("model_type", ""))
    errors = (ValueError, KeyError, TypeError, AttributeError, AssertionError)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **plain))
    except (*errors, StrictDataclassError) as error:
        raise ModelError(f"the configuration of {model_type!r} cannot be built: {error}") from error


def _shapes_in_files(checkpoint: Checkpoint) -> dict[str, Shape] | None:
    """Shapes from the files alone; None where these do not tell, as their names are unusual."""
    shapes: dict[str, Shape] = {}
    files = [file for file in checkpoint.weight_files if file.suffix == ".safetensors"]
    for file in files:
        for name, tensor in read_header(file).items():
            if len(tensor["shape"]) > 1 and _UNUSUAL.search(name):
                return None
            module, _, kind = name.rpartition(".")
            if kind == "weight" and _IN_DECODER.search(module) and len(tensor["shape"]) == 2:
                shapes[module] = (int(tensor["shape"][0]), int(tensor["shape"][1]))
    if not shapes:
        return None
    return dict(sorted(shapes.items(), key=lambda item: _in_order(item[0])))


def _in_order(name: str) -> list[tuple[int, str]]:
    """Sort layer 10 after layer 2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
