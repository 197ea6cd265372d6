"""GPTQ in 8, 4, 3 or 2 bit through GPTQModel, which keeps AutoGPTQ's checkpoint format.

GPTQ (Frantar et al. 2023) rounds one column of weights after another and corrects the others for
the error, weighed by calibration activations. AutoGPTQ is archived and cannot be imported beside
transformers 5; GPTQModel is its maintained successor.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.backends import _gptqmodel, _gptqmodel_kernels, _gptqmodel_load, _schemes
from evalkit.backends._checks import (
    DTYPES,
    LEAST_PACKED,
    check_quantized,
    check_unquantized,
    refuse,
)
from evalkit.backends._kernels import Capability, KernelChoice
from evalkit.backends._spec import (
    BackendSpec,
    Option,
    check_device,
    method_label,
    resolved_options,
)
from evalkit.errors import VariantError
from evalkit.progress import Listener, ignore
from evalkit.records import Variant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel

    from evalkit.analysis.footprint import Scheme
    from evalkit.models.loading import Loaded
    from evalkit.models.resolve import Checkpoint
    from evalkit.models.shapes import Shape

GROUP_SIZES = (-1, 16, 32, 64, 128, 256, 512, 1024)
SPEC = BackendSpec(
    name="gptq",
    summary="calibrated rounding in groups, AutoGPTQ's format, made by GPTQModel",
    precisions=("int8", "int4", "int3", "int2"),
    options=(
        Option(
            "group_size",
            128,
            "inputs that share a scale; -1 is one scale for a whole row",
            allowed=GROUP_SIZES,
            shown=True,
        ),
        Option("desc_act", False, "quantize columns by decreasing activation"),
        Option("sym", True, "symmetric around zero"),
        Option("damp_percent", 0.05, "dampening of the Hessian", minimum=0.001, maximum=0.999),
        Option(
            "calibration",
            "",
            "file of calibration text; self is text that the model itself writes",
            identifies=False,
        ),
        Option("samples", 128, "calibration samples", minimum=1),
        Option(
            "sample_length", 512, "tokens of a calibration sample; 128 of its own text", minimum=16
        ),
        Option("dtype", "fp16", "of activations and unquantized weights", allowed=("fp16", "bf16")),
        Option(
            "kernel",
            "auto",
            "what runs the layers on a card; auto is the fastest that can",
            allowed=_gptqmodel_kernels.NAMES,
            makes=False,
        ),
    ),
    requires=("gptqmodel", "optimum"),
    install="pip install gptqmodel==7.6.0 optimum",
    quantizes=True,
    keeps=True,
    needs_calibration=True,
)
# Packed words are 32 bit: every bit width fills them with 32 values.
PACKED = 32


def check(checkpoint: Checkpoint, variant: Variant) -> None:
    """Raise VariantError where GPTQModel does not know the architecture, or widths do not fit."""
    check_unquantized(checkpoint, variant)
    if reason := problem(checkpoint, variant):
        low = "int8" if variant.precision == "int8" else "int4"
        groups = [f"{variant.precision}@gptq,group_size={g}" for g in _smaller_groups(variant)]
        refuse(checkpoint, reason, *groups, f"{low}@bitsandbytes")


def problem(checkpoint: Checkpoint, variant: Variant) -> str:
    """Why the variant cannot be made of an unquantized checkpoint; "" where it can."""
    model_type = str(checkpoint.config.get("model_type", ""))
    if model_type not in _gptqmodel.known_types():
        return f"GPTQModel cannot quantize the architecture {model_type!r} as it is installed here"
    from evalkit.models.shapes import decoder_shapes

    shapes = decoder_shapes(checkpoint)
    unfit = _unfit(shapes, variant)
    elements = sum(shapes[name][0] * shapes[name][1] for name in unfit)
    if elements <= (1 - LEAST_PACKED) * sum(rows * width for rows, width in shapes.values()):
        return ""
    name, why = next(iter(unfit.items()))
    others = sum(reason == why for reason in unfit.values()) - 1
    more = f" and {others} more" if others else ""
    return f"{variant.text} cannot pack {name}{more}: {why}"


def label(variant: Variant) -> str:
    """The method's usual name."""
    return method_label(variant, "GPTQ")


def scheme(variant: Variant) -> Scheme:
    """How a linear layer is stored, for the planner."""
    options = resolved_options(SPEC, variant)
    bits = int(variant.precision.removeprefix("int"))
    size, symmetric = int(options["group_size"]), bool(options["sym"])
    return _schemes.grouped("GPTQ", bits, size, symmetric, reorders=bool(options["desc_act"]))


def kernel_for(
    variant: Variant, shapes: Mapping[str, Shape], capability: Capability
) -> KernelChoice:
    """The kernel that runs layers of these shapes; see `_gptqmodel_kernels`."""
    return _settle(variant, shapes, capability)[1]


def missing_tools(variant: Variant) -> tuple[str, ...]:
    """What this machine lacks to compile kernels, which decides the kernel that runs."""
    return _gptqmodel_kernels.missing_tools()


def build(checkpoint: Checkpoint, variant: Variant, device: str, listener: Listener) -> None:
    """Compile what the kernel needs on a card and is not there yet, with progress."""
    from evalkit.models.cuda_build import capability
    from evalkit.models.shapes import decoder_shapes

    if (on := capability(device)) is not None:
        settled = _settle(variant, decoder_shapes(checkpoint), on)
        _gptqmodel_load.build(settled, variant.label, listener)


def arithmetic(variant: Variant, device: str) -> str:
    """The dtype in which `quantize` holds weights and runs the calibration text."""
    from evalkit.backends._gptqmodel_quantize import arithmetic as of

    return of(str(resolved_options(SPEC, variant)["dtype"]), device)


def prepare() -> None:
    """Import GPTQModel and transformers."""
    _gptqmodel.import_quietly()


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
    """Write the quantized checkpoint of `source` into the directory `out`.

    `calibration` are token ids of samples. Raises VariantError where GPTQModel does not know the
    architecture or cannot quantize a layer.
    """
    if not calibration:
        raise VariantError(
            f"{variant.text} needs calibration text: give it as calibration=FILE, or use a "
            "method without, such as int4@bitsandbytes"
        )
    from evalkit.backends import _gptqmodel_quantize
    from evalkit.models.resolve import resolve_model
    from evalkit.models.shapes import decoder_shapes

    checkpoint = resolve_model(
        str(source), allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
    )
    check_device(SPEC, device)
    _gptqmodel_quantize.quantize(
        source,
        variant,
        resolved_options(SPEC, variant),
        out,
        device,
        calibration,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        left=tuple(_unfit(decoder_shapes(checkpoint), variant)),
        listener=listener,
    )


def load(
    source: Path,
    variant: Variant,
    device: str,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Loaded:
    """The checkpoint that `quantize` wrote, on `device`, run by the kernel of `kernel_for`."""
    from evalkit.backends._gptqmodel_layers import FORMATS
    from evalkit.models.kernels import kernel_names
    from evalkit.models.layers import kept_16bit
    from evalkit.models.loading import Loaded
    from evalkit.models.resolve import read_config

    check_device(SPEC, device)
    options = resolved_options(SPEC, variant)
    if "quantization_config" not in read_config(source):
        raise VariantError(f"{source} is not quantized yet: make {variant.text} of it first")

    def load_model(kernel: str) -> tuple[PreTrainedModel, tuple[str, ...]]:
        return _gptqmodel_load.load(
            source,
            dtype=DTYPES[str(options["dtype"])],
            device=device,
            kernel=kernel,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )

    asked = str(options["kernel"])
    model, notes = load_model(asked)
    check_quantized(model, variant)
    return Loaded(
        model,
        kernel_names(model, FORMATS),
        kept_16bit(model),
        notes,
        reload=lambda: load_model(asked)[0],
        unpackable=None if device == "cpu" else lambda: load_model("torch")[0],
        formats=FORMATS,
    )


def load_random(checkpoint: Checkpoint, variant: Variant, device: str, *, seed: int = 0) -> Loaded:
    """The architecture of `checkpoint` with random packed weights, run by the same kernels."""
    from evalkit.backends._gptqmodel_layers import FORMATS
    from evalkit.models.kernels import kernel_names
    from evalkit.models.layers import kept_16bit
    from evalkit.models.loading import Loaded
    from evalkit.models.random_weights import NOTE
    from evalkit.models.shapes import decoder_shapes

    check_device(SPEC, device)
    check(checkpoint, variant)
    options = resolved_options(SPEC, variant)
    model, notes = _gptqmodel_load.load_random(
        checkpoint.config,
        _made(variant),
        decoder_shapes(checkpoint),
        dtype=DTYPES[str(options["dtype"])],
        device=device,
        seed=seed,
        kernel=str(options["kernel"]),
    )
    check_quantized(model, variant)
    kernel = kernel_names(model, FORMATS)
    return Loaded(model, kernel, kept_16bit(model), (NOTE, *notes), formats=FORMATS)


def _made(variant: Variant) -> dict[str, Any]:
    """The quantization_config that the variant's checkpoint will have, as far as kernels ask."""
    options = resolved_options(SPEC, variant)
    return {
        "quant_method": "gptq",
        "bits": int(variant.precision.removeprefix("int")),
        "group_size": int(options["group_size"]),
        "desc_act": bool(options["desc_act"]),
        "sym": bool(options["sym"]),
    }


def _settle(
    variant: Variant, shapes: Mapping[str, Shape], capability: Capability
) -> tuple[_gptqmodel_kernels.Kernel, KernelChoice]:
    options = resolved_options(SPEC, variant)
    layout = _gptqmodel_kernels.Layout.of_config(_made(variant), DTYPES[str(options["dtype"])])
    return _gptqmodel_kernels.choose(layout, shapes, capability, str(options["kernel"]))


def _unfit(shapes: Mapping[str, Shape], variant: Variant) -> dict[str, str]:
    """Layers whose widths cannot be packed or divided into groups, and why."""
    size = int(resolved_options(SPEC, variant)["group_size"])
    sides = [("inputs", 1, PACKED), ("outputs", 0, PACKED), *([("inputs", 1, size)] * (size > 0))]
    found: dict[str, str] = {}
    for word, side, multiple in sides:
        for name, shape in shapes.items():
            if shape[side] % multiple:
                found.setdefault(name, f"{shape[side]} {word} are no multiple of {multiple}")
    return found


def _smaller_groups(variant: Variant) -> list[int]:
    """Group sizes to try instead, the largest first, one scale for a row last."""
    size = int(resolved_options(SPEC, variant)["group_size"])
    return [*sorted((g for g in GROUP_SIZES if 0 < g < size), reverse=True), -1]
