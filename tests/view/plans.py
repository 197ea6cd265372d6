"""A plan of Phi-3 Small on an RTX 4090 for the tests of its table and chart."""

from __future__ import annotations

from evalkit.analysis.architecture import Attention, Growth, Linear, ModelShape, Moment
from evalkit.analysis.cards import find_card
from evalkit.analysis.footprint import Scheme
from evalkit.analysis.planner import Plan, plan

MOMENT = (Moment(Growth((0.0, 0.0), (0.0, 250_000.0))),)
SHAPE = ModelShape(
    name="phi-3-small",
    layers=32,
    hidden=4096,
    vocab=100352,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate=14336,
    max_context=8192,
    linears=(Linear("all", 4096, 6_979_321_856 // 4096),),
    embedding=411_041_792,
    head=411_041_792,
    tied=True,
    other=1_908_736,
    attention=(Attention(32, 2048),),
    prefill={2: MOMENT},
    decode={2: (Moment(Growth((0.0,), (1e6,))),)},
)
FP16 = Scheme("FP16", 16, 0.85, "gpt-fast")
INT4 = Scheme("GPTQ 4 bit g128", 4, 0.71, "ExLlamaV2", 128, scale_bytes=2, zero_bits=4)


def planned(batch: int = 1, context: int = 8192, chunk: int = 0) -> Plan:
    return plan(
        SHAPE,
        (("fp16", FP16), ("int4", INT4)),
        find_card("rtx-4090"),
        context,
        batch,
        prefill_chunk=chunk,
        refused=[("int3@gptq", "cannot pack q_proj\x1b[31m")],
        notes=["GPU: rtx-4090, as this machine has none; choose one with --gpu"],
    )
