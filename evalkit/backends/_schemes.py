"""How each method stores a linear layer, for the planner: one function for each method.

The fractions of the decode roofline are what others measured on an RTX 4090 with models of 7 to 8
billion parameters at batch 1. They are of the fastest engines, so they say what is possible rather
than what a particular kernel does; `evalkit bench` measures that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from evalkit.analysis.footprint import NO_WORK, Scheme, Work
from evalkit.errors import VariantError

_GPT_FAST = "gpt-fast in bf16 on an RTX 4090"
_LLM_INT8 = "LLM.int8() is no faster than FP16 at batch 1: an upper bound"
_LLAMA_CPP_Q4 = "llama.cpp Q4_K_M on an RTX 4090"
# Above it, llama.cpp's Q8_0 is nearer than its Q4_K_M.
_Q6_BITS = 6.6
_GPTQ = {
    8: (0.68, "llama.cpp Q8_0 on an RTX 4090"),
    4: (0.71, "ExLlamaV2 in 4 bit on an RTX 4090"),
}
# By the group size, as GPTQModel's marlin_padded_nk pads outputs and inputs.
_MARLIN_TILES = {
    size: ((64, math.lcm(128, abs(size))), (128, math.lcm(64, abs(size))))
    for size in (-1, 32, 64, 128)
}
# Blocks of 256 scales share a second scale where the scales of 4-bit weights are quantized.
_NESTED = 256


def plain(precision: str) -> Scheme:
    """Unquantized weights in "fp32", "fp16" or "bf16"."""
    size = 4 if precision == "fp32" else 2
    return Scheme(precision.upper(), 8 * size, 0.85, _GPT_FAST, rest_bytes=size)


def llm_int8() -> Scheme:
    """LLM.int8(): a float32 scale a row; integer activations, 32-bit integer products.

    The fraction is the one that makes it as fast as FP16 at 0.85 of its roofline.
    """
    return Scheme(
        "LLM.int8()",
        8,
        0.45,
        _LLM_INT8,
        scale_bytes=4,
        int8=True,
        cuda=Work(input=1, output=4),
        # Products, the scale of each and the scaled one, in 32 bit before the output is made.
        cpu=Work(input=1, output=14),
    )


def torchao_int8(*, dynamic: bool) -> Scheme:
    """torchao's INT8: a float32 scale and an 8-bit zero point a row."""
    return Scheme(
        "torchao dynamic" if dynamic else "torchao",
        8,
        0.68,
        "llama.cpp Q8_0 on an RTX 4090",
        scale_bytes=4,
        zero_bits=8,
        int8=dynamic,
        cuda=Work(input=1, output=4) if dynamic else Work(weight=2),
        cpu=Work(input=1, output=10) if dynamic else Work(weight=2),
    )


def torchao_fp8(*, dynamic: bool) -> Scheme:
    """torchao's FP8: a float32 scale a row, no zero point; products of FP8 run at INT8's rate.

    Weight-only they are unpacked to float32, scaled there, and rounded to 16 bit.
    """
    return Scheme(
        "torchao dynamic" if dynamic else "torchao",
        8,
        0.84,
        "calm in FP8 on an RTX 4090",
        scale_bytes=4,
        int8=dynamic,
        cuda=Work(input=1) if dynamic else Work(weight=8),
        cpu=Work(weight=8),
    )


def torchao_int4(group_size: int) -> Scheme:
    """torchao's INT4 in tiles: a scale and a zero point in bfloat16 for a group of inputs.

    Inputs are padded to a multiple of 1,024 and outputs to one of 8, so that a model of narrow
    layers is up to 1.8 times as large as its weights (SmolLM2's 576 inputs, Gemma 3's 1,152).
    """
    return Scheme(
        f"torchao 4 bit g{group_size}",
        4,
        0.77,
        "torchao in 4 bit on an RTX 4090",
        group_size=group_size,
        scale_bytes=2,
        zero_bits=16,
        cuda=Work(tiles=((8, 1024),)),
    )


def four_bit(quant_type: str = "nf4", double_quant: bool = False) -> Scheme:
    """NF4 or FP4: a scale for 64 weights, a table of 16 values; unpacked for more than a token."""
    table = 16 * 4
    # 8-bit scales have a float32 scale for a block of them, their own table and an offset.
    nested = _NESTED * 4 + 4 if double_quant else 0
    return Scheme(
        quant_type.upper(),
        4,
        0.60,
        _LLAMA_CPP_Q4,
        group_size=64,
        scale_bytes=1 + 4 / _NESTED if double_quant else 4,
        layer_bytes=table + nested,
        cuda=Work(weight=2),
        cpu=Work(weight=2),
    )


def gguf(title: str, bits: float, embedding_bits: float, head_bits: float) -> Scheme:
    """llama.cpp's blocks, whose bits count their scales; embedding and output head are blocks too.

    A tied embedding is held as the head is.
    """
    fraction, source = _GPTQ[8] if bits > _Q6_BITS else (0.60, _LLAMA_CPP_Q4)
    return Scheme(
        title,
        bits,
        fraction,
        source,
        embedding_bits=embedding_bits,
        head_bits=head_bits,
    )


def grouped(
    title: str, bits: int, group_size: int, symmetric: bool, *, reorders: bool = False
) -> Scheme:
    """GPTQ, RTN in its format, or AWQ: a float16 scale a group of inputs.

    Where `group_size` is not positive, all inputs are one group.

    Zero points are counted although symmetric ones are all the same constant: both formats write
    one for each group, and GPTQ's an index of the group of each input. On a card Marlin is counted
    wherever it may run; it pads widths that no tile of 64 × 128 covers, this way or the other, in
    whole groups, but not where `reorders` puts columns in the order of activations.
    """
    fraction, source = _GPTQ.get(bits, (0.60, _LLAMA_CPP_Q4))
    groups = f"g{group_size}" if group_size > 0 else "per row"
    marlin = bits in (4, 8) and group_size in _MARLIN_TILES and (symmetric or title == "AWQ")
    return Scheme(
        f"{title} {bits} bit {groups}",
        bits,
        fraction,
        source,
        group_size=max(0, group_size),
        scale_bytes=2,
        zero_bits=bits,
        input_bytes=0 if title == "AWQ" else 4,
        cuda=Work(tiles=_MARLIN_TILES[group_size]) if marlin and not reorders else NO_WORK,
    )


def of_checkpoint(name: str, method: str, made: Mapping[str, Any]) -> Scheme:
    """How the checkpoint `name` stores layers, by its config.json's quantization_config `made`.

    Raises VariantError where that says too little, or for a method that is not planned for.
    """
    if method == "bitsandbytes" and made.get("load_in_8bit"):
        return llm_int8()
    if method == "bitsandbytes":
        nested = bool(made.get("bnb_4bit_use_double_quant"))
        return four_bit(str(made.get("bnb_4bit_quant_type", "nf4")), nested)
    if method not in ("gptq", "awq"):
        raise VariantError(f"{name} is quantized by {method!r}, which cannot be planned for")
    group_size = made.get("group_size", made.get("q_group_size", 128))
    if not _whole(made.get("bits")) or not _whole(group_size):
        raise VariantError(
            f"{name} has bits {made.get('bits')!r} and group_size {group_size!r} in its"
            " quantization_config: whole numbers are needed; save the checkpoint again"
        )
    symmetric = bool(made.get("sym", method == "gptq")) and not made.get("zero_point")
    reorders = bool(made.get("desc_act"))
    return grouped(method.upper(), made["bits"], group_size, symmetric, reorders=reorders)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
