"""GPTQ in 8, 4, 3 or 2 bit through GPTQModel, which keeps AutoGPTQ's checkpoint format.

GPTQ (Frantar et al. 2023) rounds one column of weights after another and corrects the others for
the error, weighed by calibration activations. AutoGPTQ is archived and cannot be imported beside
transformers 5; GPTQModel is its maintained successor, with two later methods that write the same
checkpoint: GPTAQ (Li et al. 2025) corrects for the error of the layers before as well, FOEM (AAAI
2026, article 40123) for the first-order term that GPTQ leaves out.
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

GROUP_SIZES = (-1, 16, 32, 64, 128, 256, 512, 1024)
_TITLES = {"gptq": "GPTQ", "gptaq": "GPTAQ", "foem": "FOEM"}
PRECISIONS = ("int8", "int4", "int3", "int2")
SPEC = BackendSpec(
    name="gptq",
    summary="calibrated rounding in groups, AutoGPTQ's format, made by GPTQModel",
    precisions=(*PRECISIONS, MIXED),
    options=(
        _gptqmodel_options.group_size(GROUP_SIZES, PRECISIONS),
        _mixed.PLAN,
        Option("method", "gptq", "which errors are corrected", allowed=tuple(_TITLES)),
        Option("desc_act", False, "quantize columns by decreasing activation"),
        Option("sym", True, "symmetric around zero"),
        Option("damp_percent", 0.05, "dampening of the Hessian", minimum=0.001, maximum=0.999),
        Option(
            "mse",
            0.0,
            "search each group's range for the least |error| to this power; 0 is the full range",
            minimum=0,
            maximum=8,
        ),
        *_gptqmodel_options.CALIBRATION,
        _gptqmodel_options.DTYPE,
        _gptqmodel_options.KERNEL,
    ),
    requires=_gptqmodel_options.REQUIRES,
    install=_gptqmodel_options.INSTALL,
    quantizes=True,
    keeps=True,
    needs_calibration=True,
    mixes=_gptqmodel_options.MIXES,
    loaders=_gptqmodel_options.LOADERS,
)


def label(variant: Variant) -> str:
    """The method's usual name."""
    title = _TITLES[_method(variant)]
    return _mixed.label(variant, title) or method_label(variant, title, left_out=("method",))


def scheme(variant: Variant) -> Scheme:
    """How a linear layer is stored, for the planner."""
    if _mixed.is_mixed(variant):
        return _mixed.scheme(variant, SPEC, scheme, "GPTQ")
    options = resolved_options(SPEC, variant)
    size, symmetric = int(options["group_size"]), bool(options["sym"])
    reorders = bool(options["desc_act"])
    return _schemes.grouped("GPTQ", bits(variant), size, symmetric, reorders=reorders)


def _method(variant: Variant) -> str:
    return str(resolved_options(SPEC, variant)["method"])


def _made(variant: Variant) -> dict[str, Any]:
    options = resolved_options(SPEC, variant)
    return {
        "quant_method": "gptq",
        "bits": bits(variant),
        "group_size": int(options["group_size"]),
        "desc_act": bool(options["desc_act"]),
        "sym": bool(options["sym"]),
    }


def _asked(variant: Variant) -> dict[str, Any]:
    options = resolved_options(SPEC, variant)
    method, size, by_activation = _method(variant), options["group_size"], options["desc_act"]
    return {
        "bits": bits(variant),
        "group_size": int(size),
        "desc_act": bool(by_activation),
        # Ordering columns within groups needs groups, excludes ordering across them, and is left
        # out by GPTAQ and FOEM whatever is asked.
        "act_group_aware": method == "gptq" and not by_activation and int(size) > 0,
        "sym": bool(options["sym"]),
        "damp_percent": float(options["damp_percent"]),
        "mse": float(options["mse"]),
        # The library's own strength of each correction.
        "gptaq": {} if method == "gptaq" else None,
        "foem": {} if method == "foem" else None,
        # Plain rounding where calibration reached a layer too rarely would be a silent fallback.
        "fallback": None,
    }


def _instead(variant: Variant) -> tuple[str, ...]:
    return (f"{'int8' if variant.precision == 'int8' else 'int4'}@bitsandbytes",)


# Packed words are 32 bit: every bit width fills them with 32 values.
_MAKER = Maker(SPEC, _made, _asked, packs=(32, 32), instead=_instead)
check, problem, misfit = _MAKER.check, _MAKER.problem, _MAKER.misfit
kernel_for, missing_tools, build = _MAKER.kernel_for, _MAKER.missing_tools, _MAKER.build
arithmetic, prepare, quantize = _MAKER.arithmetic, _MAKER.prepare, _MAKER.quantize
load, load_random = _MAKER.load, _MAKER.load_random
content = _mixed.content
