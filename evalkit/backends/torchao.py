"""INT8, FP8 and INT4 by torchao: tensor subclasses whose products torch.compile fuses.

INT8 and FP8 (E4M3) have one scale a row; weight-only they multiply 16-bit activations, the dynamic
form quantizes each token's activations too, which FP8 can on cards alone. INT4 has a scale and a
zero point for a group of inputs and needs CUDA. Nothing is calibrated. The path is fast with
`evalkit bench --engine compile`; eager, an unpacked copy is made for each product.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.backends import _mixed, _schemes
from evalkit.backends._checks import DTYPES, check_quantized, check_unquantized
from evalkit.backends._kernels import Capability, KernelChoice
from evalkit.backends._spec import (
    BackendSpec,
    Option,
    check_device,
    method_label,
    resolved_options,
)
from evalkit.errors import VariantError
from evalkit.progress import Event, Listener, ignore
from evalkit.records import MIXED, Variant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel

    from evalkit.analysis.footprint import Scheme
    from evalkit.models.checkpoint import Checkpoint
    from evalkit.models.loading import Loaded
    from evalkit.models.shapes import Shape

SPEC = BackendSpec(
    name="torchao",
    summary="INT8 and FP8 weight-only or dynamic, INT4 weight-only (CUDA); fast when compiled",
    precisions=("int8", "fp8", "int4", MIXED),
    options=(
        _mixed.PLAN,
        Option(
            "activations",
            "16bit",
            "kept in 16 bit, or quantized to 8 bit token by token",
            allowed=("16bit", "dynamic"),
            precisions=("int8", "fp8"),
        ),
        Option(
            "group_size",
            128,
            "inputs that share a scale and a zero point",
            allowed=(32, 64, 128, 256),
            shown=True,
            precisions=("int4",),
        ),
        Option("dtype", "bf16", "of activations and unquantized weights", allowed=("fp16", "bf16")),
    ),
    requires=("torchao",),
    install="pip install 'evalkit[torchao]'",
    quantizes=True,
    formats=("int8,activations=dynamic",),
    mixes=("activations", "group_size"),
    loaders=("plain transformers with torchao",),
)
_INT4_CAPABILITY = (8, 0)
# From Ada and Hopper on, tensor cores multiply FP8.
_FP8_CAPABILITY = (8, 9)
_ALTERNATIVE = "int8@bitsandbytes or int4@bitsandbytes"


def check(checkpoint: Checkpoint, variant: Variant) -> None:
    """Raise VariantError for a quantized checkpoint, or a dtype or width that it cannot take."""
    from evalkit.models.shapes import decoder_shapes

    check_unquantized(checkpoint, variant)
    shapes = decoder_shapes(checkpoint)
    parts = _mixed.parts(variant, SPEC, shapes)
    for part in dict.fromkeys(filter(None, parts.values())):
        held = {name: shapes[name] for name in shapes if parts[name] == part}
        _check_format(part, held)


def _check_format(variant: Variant, shapes: Mapping[str, Shape]) -> None:
    """Raise VariantError for a dtype that the format does not take, or a width of `shapes`."""
    options = resolved_options(SPEC, variant)
    if _is_dynamic_fp8(variant) and options["dtype"] != "bf16":
        raise VariantError(
            f"{variant.text} is not possible: products of FP8 with a scale a row give bf16 only;"
            " use dtype=bf16, or activations=16bit"
        )
    if variant.precision != "int4":
        return
    if options["dtype"] != "bf16":
        raise VariantError(
            f"{variant.text} is not possible: torchao's tiles of 4-bit weights take bf16 only; use"
            f" dtype=bf16, or {_ALTERNATIVE}"
        )
    for name, shape in shapes.items():
        if why := misfit(variant, shape):
            raise VariantError(
                f"{variant.text} cannot divide {name} into groups: {why}; use a smaller group_size"
                f" or {_ALTERNATIVE}"
            )


def misfit(variant: Variant, shape: Shape) -> str:
    """Why a layer of (outputs, inputs) cannot be held in a format; "" where it can."""
    size = int(resolved_options(SPEC, variant).get("group_size", 1))
    return f"{shape[1]} inputs are no multiple of {size}" if shape[1] % size else ""


def label(variant: Variant) -> str:
    """The backend's name, and of a mix that of its plan."""
    return _mixed.label(variant, SPEC.name) or method_label(variant, SPEC.name)


def scheme(variant: Variant) -> Scheme:
    """How a linear layer is stored, for the planner."""
    if _mixed.is_mixed(variant):
        return _mixed.scheme(variant, SPEC, scheme, SPEC.name)
    options = resolved_options(SPEC, variant)
    if variant.precision == "int8":
        return _schemes.torchao_int8(dynamic=options["activations"] == "dynamic")
    if variant.precision == "fp8":
        return _schemes.torchao_fp8(dynamic=_is_dynamic_fp8(variant))
    return _schemes.torchao_int4(int(options["group_size"]))


def kernel_for(
    variant: Variant, shapes: Mapping[str, Shape], capability: Capability
) -> KernelChoice:
    """torch's own linear layer over a packed weight.

    INT4 has a kernel from capability 8.0 on, products of FP8 one from 8.9 on.
    """
    if _mixed.is_mixed(variant):
        parts = _mixed.formats(variant, SPEC)
        names = [kernel_for(part, shapes, capability).kernel for part in parts]
        return KernelChoice(", ".join(dict.fromkeys(names)))
    if variant.precision == "int8":
        return KernelChoice("Linear Int8Tensor")
    if variant.precision == "int4" or _is_dynamic_fp8(variant):
        _check_capability(variant, capability)
    fp8 = variant.precision == "fp8"
    return KernelChoice("Linear Float8Tensor" if fp8 else "Linear Int4TilePackedTo4dTensor")


def prepare() -> None:
    """Import torchao and transformers."""
    import torchao  # noqa: F401

    import evalkit.models.loading  # noqa: F401


def quantize(
    source: Path,
    variant: Variant,
    out: Path,
    device: str,
    calibration: Sequence[Sequence[int]] | None = None,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    listener: Listener = ignore,
) -> None:
    """Write the quantized checkpoint of `source` into the directory `out`."""
    from evalkit.models.loading import quiet

    listener(Event(variant.label, "quantizing"))
    loaded = load(
        source, variant, device, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
    )
    with quiet():
        loaded.model.save_pretrained(out)


def load(
    source: Path,
    variant: Variant,
    device: str,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Loaded:
    """The model of `source` in the variant's precision on `device`.

    `source` is what `quantize` wrote, or an original checkpoint, which is converted on loading.
    """
    from evalkit.backends._torchao import FORMATS
    from evalkit.models.checkpoint import read_config
    from evalkit.models.kernels import kernel_names
    from evalkit.models.layers import kept_16bit
    from evalkit.models.loading import Loaded, load_causal_lm

    _check_device(variant, device)
    options = resolved_options(SPEC, variant)
    made = "quantization_config" in read_config(source)
    model: PreTrainedModel = load_causal_lm(
        source,
        dtype=DTYPES[str(options["dtype"])],
        device=device,
        quantization_config=None if made else _config(source, variant),
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    if _mixed.is_mixed(variant):
        _mixed.check_made(model, variant, SPEC)
    else:
        check_quantized(model, variant)
    kernel = kernel_names(model, FORMATS)
    return Loaded(model, kernel, kept_16bit(model), formats=FORMATS)


def load_random(checkpoint: Checkpoint, variant: Variant, device: str, *, seed: int = 0) -> Loaded:
    """The architecture of `checkpoint` with random weights, quantized layer by layer."""
    import torch
    from torchao.quantization import quantize_

    from evalkit.backends._torchao import FORMATS
    from evalkit.models.kernels import kernel_names
    from evalkit.models.layers import kept_16bit
    from evalkit.models.loading import Loaded
    from evalkit.models.random_weights import NOTE, random_model

    _mixed.refuse_random(variant)
    _check_device(variant, device)
    options = resolved_options(SPEC, variant)
    model = random_model(
        checkpoint.config,
        dtype=getattr(torch, DTYPES[str(options["dtype"])]),
        device=device,
        seed=seed,
        convert=lambda linear: quantize_(linear, _torchao(variant)),
    )
    check_quantized(model, variant)
    kernel = kernel_names(model, FORMATS)
    return Loaded(model, kernel, kept_16bit(model), (NOTE,), formats=FORMATS)


def _check_device(variant: Variant, device: str) -> None:
    from evalkit.models.cuda_build import capability

    check_device(SPEC, device)
    for one in _mixed.formats(variant, SPEC):
        if one.precision == "int4" or _is_dynamic_fp8(one):
            _check_capability(one, capability(device))


def _is_dynamic_fp8(variant: Variant) -> bool:
    return variant.precision == "fp8" and variant.option("activations", "16bit") == "dynamic"


def _check_capability(variant: Variant, capability: Capability) -> None:
    """Raise VariantError where no kernel multiplies what the variant packs, on a CPU or a card."""
    fp8 = _is_dynamic_fp8(variant)
    least = _FP8_CAPABILITY if fp8 else _INT4_CAPABILITY
    if capability is None:
        instead = "fp8@torchao" if fp8 else "int4@gptq,group_size=128 or int4@bitsandbytes"
        raise VariantError(f"{variant.text} needs CUDA: on a CPU use {instead}")
    if capability < least:
        instead = "fp8@torchao" if fp8 else "int4@gptq or int4@bitsandbytes"
        raise VariantError(
            f"{variant.text} needs compute capability {least[0]}.{least[1]}, and this card has"
            f" {capability[0]}.{capability[1]}: use {instead}"
        )


def _config(source: Path, variant: Variant) -> Any:
    """transformers' configuration for the checkpoint `source`: one format, or one a module."""
    from transformers import TorchAoConfig

    if not _mixed.is_mixed(variant):
        return TorchAoConfig(_torchao(variant))
    from torchao.quantization import FqnToConfig

    from evalkit.models.checkpoint import read_config
    from evalkit.models.shapes import decoder_linears, meta_model

    parts = _mixed.parts(variant, SPEC, decoder_linears(meta_model(read_config(source))))
    made = {name: _torchao(part) for name, part in parts.items() if part is not None}
    return TorchAoConfig(FqnToConfig(OrderedDict(made)))


def _torchao(variant: Variant) -> Any:
    """torchao's own configuration of the variant."""
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Float8WeightOnlyConfig,
        Int4WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
    )

    options = resolved_options(SPEC, variant)
    if _is_dynamic_fp8(variant):
        return Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    if variant.precision == "fp8":
        return Float8WeightOnlyConfig()
    if variant.precision == "int4":
        return Int4WeightOnlyConfig(
            group_size=int(options["group_size"]), int4_packing_format="tile_packed_to_4d"
        )
    if options["activations"] == "dynamic":
        return Int8DynamicActivationInt8WeightConfig()
    return Int8WeightOnlyConfig()


content = _mixed.content
