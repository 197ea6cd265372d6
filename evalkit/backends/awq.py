"""AWQ in 4 bit through GPTQModel: inputs that calibration finds large are scaled up, then rounded.

AWQ (Lin et al. 2023) searches a scale for each input, by the mean size of its activations, and a
range for each group, by the error of the layer's output; the scales are folded into the layer
before, so that what is stored is plain rounding with a scale and a zero point a group. The
checkpoint is AutoAWQ's "gemm", which transformers and vLLM load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.backends import _gptqmodel_options, _schemes
from evalkit.backends._gptqmodel_maker import Maker
from evalkit.backends._gptqmodel_options import bits
from evalkit.backends._spec import BackendSpec, Option, method_label, resolved_options
from evalkit.records import Variant

if TYPE_CHECKING:
    from evalkit.analysis.footprint import Scheme

SPEC = BackendSpec(
    name="awq",
    summary="activation-aware scales and ranges, AutoAWQ's format, made by GPTQModel",
    precisions=("int4",),
    options=(
        _gptqmodel_options.group_size((-1, 16, 32, 64, 128)),
        *_gptqmodel_options.CALIBRATION,
        Option(
            "dtype",
            "fp16",
            "of activations and unquantized weights; transformers runs AWQ in no other",
            allowed=("fp16",),
        ),
        _gptqmodel_options.KERNEL,
    ),
    requires=_gptqmodel_options.REQUIRES,
    install=_gptqmodel_options.INSTALL,
    quantizes=True,
    keeps=True,
    needs_calibration=True,
)


def label(variant: Variant) -> str:
    """The method's usual name."""
    return method_label(variant, "AWQ")


def scheme(variant: Variant) -> Scheme:
    """How a linear layer is stored, for the planner."""
    return _schemes.grouped("AWQ", bits(variant), _group_size(variant), symmetric=False)


def _group_size(variant: Variant) -> int:
    return int(resolved_options(SPEC, variant)["group_size"])


def _made(variant: Variant) -> dict[str, Any]:
    packed = {"bits": bits(variant), "group_size": _group_size(variant), "zero_point": True}
    return {"quant_method": "awq", "version": "gemm", **packed}


def _asked(variant: Variant) -> dict[str, Any]:
    return {
        "method": "awq",
        "format": "gemm",
        "bits": bits(variant),
        "group_size": _group_size(variant),
        # With a zero point: engines take AWQ in no other form.
        "sym": False,
        # Plain rounding where calibration reached a layer too rarely would be a silent fallback.
        "fallback": None,
    }


def _instead(variant: Variant) -> tuple[str, ...]:
    return (f"int4@gptq,group_size={_group_size(variant)}", "int4@bitsandbytes")


# Eight outputs are packed into a word; inputs are not packed.
_MAKER = Maker(SPEC, _made, _asked, packs=(8, 1), instead=_instead, packs_16bit=True)
check, problem = _MAKER.check, _MAKER.problem
kernel_for, missing_tools, build = _MAKER.kernel_for, _MAKER.missing_tools, _MAKER.build
arithmetic, prepare, quantize = _MAKER.arithmetic, _MAKER.prepare, _MAKER.quantize
load, load_random = _MAKER.load, _MAKER.load_random
