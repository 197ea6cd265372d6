"""The planner against the published figures of Phi-3 Small and against its own definitions."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.analysis.architecture import Attention, Growth, Linear, ModelShape, Moment, SparseMask
from evalkit.analysis.cache_formats import FORMATS
from evalkit.analysis.cards import CARDS, card_of_driver, find_card
from evalkit.analysis.footprint import (
    CPU,
    CUDA,
    Scheme,
    Work,
    decode_bytes,
    kv_cache_bytes,
    prefill_bytes,
    read_bytes,
    weight_bytes,
)
from evalkit.analysis.planner import memory, plan
from evalkit.analysis.roofline import decode_expected, decode_roofline, prefill_roofline
from evalkit.errors import UsageError

WIDTHS = (("qkv", 6144, 4096), ("dense", 4096, 4096), ("up", 28672, 4096), ("down", 4096, 14336))
# What the activations of a 16-bit Phi-3 Small need: bytes a token, and float32 logits a sequence.
PER_TOKEN, PER_SEQUENCE = 250_000.0, 800_000.0
MOMENTS = (
    Moment(Growth((0.0, 0.0, 0.0), (0.0, PER_TOKEN, 0.0))),
    Moment(Growth((0.0, 0.0, 0.0), (PER_SEQUENCE, 8192.0, 0.0))),
    Moment(Growth((0.0, 0.0, 0.0), (0.0, 110_000.0, 0.0)), outputs=28672, inputs=4096),
)
PHI = ModelShape(
    name="phi-3-small",
    layers=32,
    hidden=4096,
    vocab=100352,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate=14336,
    max_context=8192,
    linears=tuple(Linear(f"{i}.{n}", o, inp) for i in range(32) for n, o, inp in WIDTHS),
    embedding=100352 * 4096,
    head=100352 * 4096,
    tied=True,
    other=1_908_736,
    attention=(Attention(16, 2048, window=1024, stride=8), Attention(16, 2048)),
    prefill={2: MOMENTS, 4: MOMENTS},
    decode={2: (Moment(Growth((0.0,), (300_000.0,))),), 4: (Moment(Growth((0.0,), (6e5,))),)},
)
PHI_128K = dataclasses.replace(PHI, max_context=131072)
FP16 = Scheme("FP16", 16, 0.85, "measured elsewhere")
INT8 = Scheme("LLM.int8()", 8, 0.45, "at most FP16", scale_bytes=4, int8=True)
INT4 = Scheme("GPTQ", 4, 0.71, "measured elsewhere", group_size=128, scale_bytes=2)
SCHEMES = (("fp16", FP16), ("int8", INT8), ("int4", INT4))
ADA = find_card("rtx-4090")


def test_weights_of_phi_3_small_are_the_published_bytes() -> None:
    assert PHI.parameters == 7_392_272_384
    assert PHI.linear_elements == 6_979_321_856
    assert weight_bytes(PHI, FP16).total == 14_784_544_768
    assert weight_bytes(PHI, INT4).total == 4_424_613_888
    per_channel = dataclasses.replace(INT8, scale_bytes=2)
    assert weight_bytes(PHI, per_channel).total == 7_807_975_424
    assert weight_bytes(PHI, INT8).total == pytest.approx(7.81e9, rel=0.005)


def test_weights_are_split_into_packed_scales_zeros_and_the_rest() -> None:
    asymmetric = dataclasses.replace(INT4, zero_bits=4, layer_bytes=64)
    found = weight_bytes(PHI, asymmetric)
    groups = 6_979_321_856 // 128
    assert found.packed == 6_979_321_856 / 2
    assert found.scales == 2 * groups + 128 * 64
    assert found.zeros == groups / 2
    assert found.rest == 2 * (100352 * 4096 + 1_908_736)
    assert found.zeros / found.total == pytest.approx(0.006, abs=0.0005)


def test_a_last_group_that_is_not_full_has_a_scale_of_its_own() -> None:
    narrow = dataclasses.replace(PHI, linears=(Linear("a", 10, 200),))
    assert weight_bytes(narrow, INT4).scales == 10 * 2 * 2


@pytest.mark.parametrize(("scheme", "rate"), [(FP16, 68), (INT8, 129), (INT4, 227)])
def test_decode_roofline_of_a_4090_at_batch_1(scheme: Scheme, rate: float) -> None:
    assert decode_roofline(PHI, scheme, ADA, 1) == pytest.approx(rate, rel=0.02)


def test_kv_cache_is_128_kib_a_token() -> None:
    assert kv_cache_bytes(PHI, FP16, 1, 1) == 128 * 1024
    assert kv_cache_bytes(PHI, FP16, 3, 8192) == 3 * 8192 * 128 * 1024


@pytest.mark.parametrize(("name", "smaller"), [("int8", 1.88), ("fp8", 2.0), ("int4", 3.56)])
def test_a_quantized_kv_cache_holds_more_tokens_and_sequences(name: str, smaller: float) -> None:
    packed = dataclasses.replace(FP16, cache=FORMATS[name])
    whole, less = plan(PHI, [("fp16", FP16), ("less", packed)], ADA, 8192).rows
    ratio = whole.kv_cache_bytes_per_token / less.kv_cache_bytes_per_token
    assert ratio == pytest.approx(smaller, abs=0.005)
    assert whole.memory.kv_cache / less.memory.kv_cache == pytest.approx(ratio)
    assert less.memory.weights == whole.memory.weights
    assert less.decode_roofline == whole.decode_roofline
    assert less.decode_expected > whole.decode_expected
    # The model's own limit, or that of activations.
    assert whole.max_context <= less.max_context <= PHI.max_context
    chunked = plan(PHI, [("fp16", FP16), ("less", packed)], ADA, 4096, 12, prefill_chunk=2048)
    whole, less = chunked.rows
    assert less.max_batch >= ratio * whole.max_batch
    assert less.max_context > whole.max_context


def test_scales_of_a_short_last_group_are_counted() -> None:
    assert FORMATS["int4"].channel_bytes(64) == 4.5 / 8
    assert FORMATS["int8"].channel_bytes(80) == (80 + 3 * 2) / 80
    assert FORMATS["fp8"].channel_bytes(80) == 1


def test_a_sliding_window_bounds_the_cache_and_stripes_do_not() -> None:
    sliding = Attention(layers=2, cached=10, window=100)
    assert (sliding.kept(50), sliding.kept(500)) == (50, 100)
    assert (sliding.attended(50), sliding.attended(500)) == (50, 100)
    sparse = Attention(layers=2, cached=10, window=1024, stride=8)
    assert sparse.kept(8192) == 8192
    assert sparse.attended(8192) / 8192 == pytest.approx(0.23, abs=0.005)


def test_fp16_fits_a_4090_at_8k_and_not_at_128k() -> None:
    (short,) = plan(PHI, SCHEMES[:1], ADA, 8192).rows
    (long,) = plan(PHI_128K, SCHEMES[:1], ADA, 131072).rows
    assert short.fits and short.headroom_bytes > 0
    assert not long.fits and long.headroom_bytes < 0
    assert long.max_batch == 0


def test_limits_are_where_the_total_crosses_the_cards_memory() -> None:
    for row in plan(PHI_128K, SCHEMES, ADA, 8192, batch=2).rows:

        def total(batch: int, context: int, scheme: Scheme = row.scheme) -> float:
            return memory(PHI_128K, scheme, batch, context).total

        assert total(row.max_batch, 8192) <= ADA.memory < total(row.max_batch + 1, 8192)
        assert total(2, row.max_context) <= ADA.memory < total(2, row.max_context + 1)


def test_longest_context_stops_at_the_models_positions() -> None:
    (row,) = plan(PHI, (("int4", INT4),), find_card("h200"), 1024).rows
    assert row.max_context == 8192


def test_headroom_and_total_are_the_sum_of_the_parts() -> None:
    (row,) = plan(PHI, (("int8", INT8),), ADA, 4096, batch=3).rows
    used = row.memory
    parts = used.weights.total + used.kv_cache + used.activations + used.runtime
    assert used.total == parts
    assert row.headroom_bytes == ADA.memory - used.total
    assert used.runtime == CUDA.fixed
    assert used.kv_cache == 3 * 4096 * row.kv_cache_bytes_per_token


def test_prefill_in_passes_needs_the_activations_of_one_pass() -> None:
    whole = memory(PHI, FP16, 12, 8192).prefill
    chunked = memory(PHI, FP16, 12, 8192, prefill_chunk=2048).prefill
    assert whole == 12 * 8192 * PER_TOKEN
    assert chunked == 2048 * PER_TOKEN
    many_short = memory(PHI, FP16, 12, 512, prefill_chunk=2048).prefill
    assert many_short == 4 * 512 * PER_TOKEN


def test_logits_can_be_the_peak_of_short_prompts() -> None:
    assert prefill_bytes(PHI, FP16, 4, 1) == 4 * (PER_SEQUENCE + 8192)


def test_kernels_add_their_own_buffers_at_their_layer() -> None:
    at_layer = 100 * (110_000.0 + 4096 + 5 * 28672)
    assert prefill_bytes(PHI, INT8, 1, 100, Work(input=1, output=5)) == at_layer
    assert prefill_bytes(PHI, INT8, 1, 100, Work(output=1)) == 100 * PER_TOKEN


def test_each_device_has_its_own_kernels_and_surroundings() -> None:
    scheme = dataclasses.replace(INT8, cuda=Work(output=5), cpu=Work(output=10))
    gpu = memory(PHI, scheme, 1, 100)
    cpu = memory(PHI, scheme, 1, 100, runtime=CPU)
    assert gpu.prefill == 100 * (110_000.0 + 5 * 28672)
    assert cpu.prefill == 100 * (110_000.0 + 10 * 28672)
    assert gpu.runtime == CUDA.fixed
    assert cpu.runtime == CPU.fixed


def test_a_mapped_file_counts_while_weights_are_made_of_it() -> None:
    weights = weight_bytes(PHI, INT8).total
    found = memory(PHI, INT8, 1, 16, runtime=CPU, mapped=14.8e9)
    assert found.total == weights + 14.8e9 + CPU.fixed
    assert memory(PHI, INT8, 1, 16, runtime=CPU, mapped=1e6).total < weights + 1e9


def test_unpacked_weights_are_held_for_more_than_one_token() -> None:
    unpacking = Work(weight=2)
    moment = Moment(Growth((0.0,), (1000.0,)), outputs=28672, inputs=4096)
    shape = dataclasses.replace(PHI, decode={2: (moment,)})
    assert decode_bytes(shape, INT4, 1, 10, unpacking) == 1000
    assert decode_bytes(shape, INT4, 2, 10, unpacking) == 2000 + 2 * 28672 * 4096


def test_sparse_mask_is_counted_where_it_is_made() -> None:
    mask = SparseMask(heads=8, span=256, most=8 * 1024**2, booleans=2)
    shape = dataclasses.replace(PHI, sparse_mask=mask)
    assert prefill_bytes(shape, FP16, 1, 256) == prefill_bytes(PHI, FP16, 1, 256)
    assert prefill_bytes(shape, FP16, 1, 512) == 512 * PER_TOKEN + 8 * 512**2 * 2
    assert prefill_bytes(shape, FP16, 1, 2048) == prefill_bytes(PHI, FP16, 1, 2048)


def test_expected_rate_reads_the_cache_and_takes_the_stated_fraction() -> None:
    alone = decode_expected(PHI, FP16, ADA, 1, 0)
    behind = decode_expected(PHI, FP16, ADA, 1, 8192)
    assert alone == pytest.approx(0.85 * decode_roofline(PHI, FP16, ADA, 1))
    read = 16 * 2048 * 2 * (8192 + 1024 + 7168 / 8)
    assert behind == pytest.approx(0.85 * ADA.bandwidth / (14_784_544_768 + read))


def test_decode_is_bound_by_arithmetic_at_large_batches() -> None:
    rates = [decode_roofline(PHI, FP16, ADA, 2**k) / 2**k for k in range(12)]
    assert rates[0] == pytest.approx(rates[4])
    assert decode_roofline(PHI, FP16, ADA, 2048) == pytest.approx(
        ADA.flops / (2 * (PHI.linear_elements + PHI.head))
    )


def test_prefill_counts_products_attention_and_the_head_once_a_prompt() -> None:
    dense = dataclasses.replace(PHI, attention=(Attention(32, 2048),))
    tokens = 4096
    products = 2 * PHI.linear_elements * tokens
    attention = 4 * 32 * 128 * 32 * tokens**2 / 2
    expected = tokens / ((products + attention + 2 * PHI.head) / ADA.flops)
    assert prefill_roofline(dense, FP16, ADA, 1, tokens) == pytest.approx(expected)
    assert prefill_roofline(PHI, FP16, ADA, 1, tokens) > expected
    assert prefill_roofline(PHI, INT8, ADA, 1, tokens) > 2 * expected


def test_prefill_of_one_token_is_bound_by_bandwidth() -> None:
    assert prefill_roofline(PHI, FP16, ADA, 1, 1) == pytest.approx(
        decode_roofline(PHI, FP16, ADA, 1)
    )


def test_an_untied_embedding_is_not_read_and_experts_in_part() -> None:
    untied = dataclasses.replace(PHI, tied=False)
    assert weight_bytes(untied, FP16).total - read_bytes(untied, FP16, 1) == 2 * (
        PHI.embedding - PHI.hidden
    )
    mixture = dataclasses.replace(PHI, experts=1000, expert_share=0.25)
    whole = weight_bytes(mixture, FP16).total
    assert whole - read_bytes(mixture, FP16, 1) == 1500
    assert whole - read_bytes(mixture, FP16, 2) == 2 * 1000 * 0.75**2
    assert read_bytes(mixture, FP16, 1000) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("context", "batch", "chunk", "words"),
    [
        (8193, 1, 0, "--context 8193 is beyond the 8192 positions of phi-3-small"),
        (0, 1, 0, "--context 0"),
        (1, 0, 0, "--batch 0"),
        (1, 1, -1, "--prefill-chunk -1"),
    ],
)
def test_impossible_sizes_are_one_line(context: int, batch: int, chunk: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(PHI, SCHEMES, ADA, context, batch, prefill_chunk=chunk)


@settings(max_examples=50, deadline=None)
@given(batch=st.integers(1, 64), context=st.integers(1, 4096), scheme=st.sampled_from(SCHEMES))
def test_more_sequences_and_longer_ones_need_more(
    batch: int, context: int, scheme: tuple[str, Scheme]
) -> None:
    here = memory(PHI, scheme[1], batch, context).total
    assert memory(PHI, scheme[1], batch + 1, context).total > here
    assert memory(PHI, scheme[1], batch, context + 1).total > here


def test_every_card_is_found_by_its_name_and_its_drivers_name() -> None:
    for name, card in CARDS.items():
        assert name == card.name
        assert find_card(name.upper().replace("-", " ")) is card
        assert all(card_of_driver(f"NVIDIA {driver}") is card for driver in card.drivers)
        assert card.flops < card.int8_operations and math.isfinite(card.watts)


def test_another_card_of_a_similar_name_is_not_taken_for_it() -> None:
    assert card_of_driver("NVIDIA GeForce RTX 4090 Laptop GPU") is None
    assert card_of_driver("NVIDIA GeForce RTX 4080 SUPER") is None
    assert card_of_driver("Some CPU, 8 threads, 64 GB, NVIDIA L4 [12345678]") is CARDS["l4"]
    assert card_of_driver("Some CPU, 8 threads, 64 GB [12345678]") is None


def test_an_unknown_card_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown GPU 'rtx4090'.*did you mean 'rtx-4090'"):
        find_card("rtx4090")
