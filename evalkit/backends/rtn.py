"""Round to nearest in 8, 4, 3 or 2 bit, in GPTQ's checkpoint format: what everything must beat.

Each group of inputs has a scale that covers its largest weight, and every weight takes the nearest
step. Nothing is calibrated and no error is corrected; bytes and kernels are those of GPTQ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.backends import _gptqmodel_options, _mixed, _schemes
from evalkit.backends._gptqmodel_maker import Maker
from evalkit.backends._gptqmodel_options import bits
from evalkit.backends._spec import BackendSpec, Option, method_label, resolved_options
from evalkit.records import MIXED, Variant

if TYPE_CHECKING:
    from evalkit.analysis.footprint import Scheme

PRECISIONS = ("int8", "int4", "int3", "int2")
SPEC = BackendSpec(
    name="rtn",
    summary="rounding to nearest in groups, without calibration, in GPTQ's format",
    precisions=(*PRECISIONS, MIXED),
    options=(
        _gptqmodel_options.group_size((-1, 16, 32, 64, 128, 256, 512, 1024), PRECISIONS),
        _mixed.PLAN,
        Option("sym", True, "symmetric around zero"),
        _gptqmodel_options.DTYPE,
        _gptqmodel_options.KERNEL,
    ),
    requires=_gptqmodel_options.REQUIRES,
    install=_gptqmodel_options.INSTALL,
    quantizes=True,
    keeps=True,
    mixes=_gptqmodel_options.MIXES,
    loaders=_gptqmodel_options.LOADERS,
)


def label(variant: Variant) -> str:
    """The method's usual name."""
    return _mixed.label(variant, "RTN") or method_label(variant, "RTN")


def scheme(variant: Variant) -> Scheme:
    """How a linear layer is stored, for the planner."""
    if _mixed.is_mixed(variant):
        return _mixed.scheme(variant, SPEC, scheme, "RTN")
    options = resolved_options(SPEC, variant)
    return _schemes.grouped("RTN", bits(variant), int(options["group_size"]), bool(options["sym"]))


def _made(variant: Variant) -> dict[str, Any]:
    options = resolved_options(SPEC, variant)
    packed = {"group_size": int(options["group_size"]), "sym": bool(options["sym"])}
    return {"quant_method": "gptq", "bits": bits(variant), "desc_act": False, **packed}


def _asked(variant: Variant) -> dict[str, Any]:
    options = resolved_options(SPEC, variant)
    packed = {"group_size": int(options["group_size"]), "sym": bool(options["sym"])}
    return {"bits": bits(variant), "weight_only": {"method": "rtn"}, **packed}


def _instead(variant: Variant) -> tuple[str, ...]:
    return (f"{'int8' if variant.precision == 'int8' else 'int4'}@bitsandbytes",)


_MAKER = Maker(SPEC, _made, _asked, packs=(32, 32), instead=_instead)
check, problem, misfit = _MAKER.check, _MAKER.problem, _MAKER.misfit
kernel_for, missing_tools, build = _MAKER.kernel_for, _MAKER.missing_tools, _MAKER.build
arithmetic, prepare, quantize = _MAKER.arithmetic, _MAKER.prepare, _MAKER.quantize
load, load_random = _MAKER.load, _MAKER.load_random
content = _mixed.content
