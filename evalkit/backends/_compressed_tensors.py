"""The linear layers of compressed-tensors, as llm-compressor and vLLM's users have them.

transformers unpacks all of them to 16 bit when the model first runs, so that what runs is a dense
layer; before that, the packed weights are there to be counted and unpacked exactly.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from evalkit.models.kernels import dtype_name
from evalkit.models.layer_format import LayerFormat


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """While the block runs, layers without weights yet expect zero points as they are stored.

    Zero points of groups or rows are packed down the outputs, but compressed-tensors (0.20) makes
    room for unpacked ones, so that transformers finds them in another shape and loads none. The
    library's progress bars are left out.
    """
    from compressed_tensors.compressors import PackedQuantizationCompressor

    own = vars(PackedQuantizationCompressor)["compress"]

    def compress(cls: Any, state: dict[str, Tensor], scheme: Any) -> dict[str, Tensor]:
        made: dict[str, Tensor] = own.__func__(cls, state, scheme)
        zeros = made.get("weight_zero_point")
        if zeros is not None and zeros.is_meta and zeros.dtype != torch.int32:
            rows = math.ceil(zeros.shape[0] * scheme.weights.num_bits / 32)
            made["weight_zero_point"] = zeros.new_empty((rows, *zeros.shape[1:]), dtype=torch.int32)
        return made

    PackedQuantizationCompressor.compress = classmethod(compress)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        PackedQuantizationCompressor.compress = own


def _scheme(module: Any) -> Any:
    """compressed-tensors' scheme of a layer whose weights are quantized, or None."""
    scheme = getattr(module, "quantization_scheme", None)
    return scheme if getattr(scheme, "weights", None) is not None else None


def _is_weight_only(module: Any) -> bool:
    scheme = _scheme(module)
    return scheme is not None and scheme.input_activations is None


def _unpack(layer: Any) -> Tensor:
    from compressed_tensors.compressors import BaseCompressor

    scheme = layer.quantization_scheme
    stored = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    # The product with a code would be rounded to the dtype of the scales.
    stored["weight_scale"] = stored["weight_scale"].float()
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    weight: Tensor = compressor.decompress(stored, scheme)["weight"]
    return weight.float().contiguous()


def _is_unpacked(layer: Any) -> bool:
    from compressed_tensors.quantization import QuantizationStatus

    return bool(layer.quantization_status != QuantizationStatus.COMPRESSED)


def _kernel(layer: Any, dtype: torch.dtype) -> str:
    scheme = layer.quantization_scheme
    weights = scheme.weights
    kind = "fp" if weights.type == "float" else "int"
    group = f" g{weights.group_size}" if weights.group_size else ""
    packed = f"compressed-tensors {kind}{weights.num_bits}{group}"
    return f"Linear ({dtype_name(dtype)}) unpacked from {packed}"


FORMATS = (
    LayerFormat(
        "compressed-tensors weight-only",
        _is_weight_only,
        kernel=_kernel,
        unpack=_unpack,
        is_repacked=_is_unpacked,
    ),
    LayerFormat(
        "compressed-tensors",
        lambda module: _scheme(module) is not None,
        kernel=_kernel,
        is_repacked=_is_unpacked,
    ),
)
