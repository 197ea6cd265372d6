"""What methods that GPTQModel makes declare alike: packages, options, what of a mix may differ."""

from __future__ import annotations

from evalkit.backends import _gptqmodel_kernels
from evalkit.backends._spec import Option
from evalkit.records import Variant

REQUIRES = ("gptqmodel", "optimum")
INSTALL = "pip install gptqmodel==7.6.0 optimum"
DTYPE = Option("dtype", "fp16", "of activations and unquantized weights", allowed=("fp16", "bf16"))
# Of a checkpoint whose modules differ.
MIXES = ("group_size",)
LOADERS = (
    "GPTQModel",
    "vLLM and SGLang by their documents (vLLM: 4 and 8 bit on Marlin)",
    "not plain transformers",
)
KERNEL = Option(
    "kernel",
    "auto",
    "what runs the layers on a card; auto is the fastest that can",
    allowed=_gptqmodel_kernels.NAMES,
    makes=False,
)
CALIBRATION = (
    Option(
        "calibration",
        "",
        "file of calibration text; self is text that the model itself writes",
        identifies=False,
    ),
    Option("samples", 128, "calibration samples", minimum=1),
    Option("sample_length", 512, "tokens of a calibration sample; 128 of its own text", minimum=16),
)


def group_size(allowed: tuple[int, ...], precisions: tuple[str, ...] = ()) -> Option:
    """The option of how many inputs share a scale, of all `precisions` or those given."""
    return Option(
        "group_size",
        128,
        "inputs that share a scale; -1 is one scale for a whole row",
        allowed=allowed,
        shown=True,
        precisions=precisions,
    )


def bits(variant: Variant) -> int:
    """4 for int4."""
    return int(variant.precision.removeprefix("int"))
