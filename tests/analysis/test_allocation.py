"""Allocation of formats: the best under a budget, against all there are, and its rivals."""

from __future__ import annotations

import itertools
import math
import os
import random

import pytest

from evalkit.analysis import allocation
from evalkit.analysis.allocation import Allocation, Candidate, Group
from evalkit.analysis.fused import fused_groups, fused_name
from evalkit.errors import UsageError
from evalkit.records import UNQUANTIZED

BITS = {"int3": 3.3, "int4": 4.3, "int8": 8.2, UNQUANTIZED: 16.0}


def groups(seed: int, count: int = 5, *, layers: int = 3) -> list[Group]:
    """Groups of several widths whose damage falls with the bits; some lack one of the formats."""
    drawn = random.Random(seed)
    found = []
    for number in range(count):
        weights = 64 * drawn.randint(4, 40)
        level = drawn.lognormvariate(0, 1)
        candidates = [
            Candidate(name, round(weights * bits / 8), 0.0 if bits == 16 else level * 4.0**-bits)
            for name, bits in BITS.items()
            if bits == 16 or drawn.random() < 0.9
        ]
        found.append(
            Group(f"g{number}", (f"m{number}",), weights, tuple(candidates), number % layers)
        )
    return found


def every(made: list[Group]) -> list[tuple[int, float]]:
    """Bytes and damage of all allocations."""
    found = [Allocation(one) for one in itertools.product(*(g.candidates for g in made))]
    return [(one.bytes, one.damage) for one in found]


@pytest.mark.parametrize("seed", range(12))
def test_no_allocation_of_that_size_does_less_damage(seed: int) -> None:
    made = groups(seed)
    least, most = allocation.byte_range(made)
    known = every(made)
    for share in (0.0, 0.1, 0.35, 0.8, 1.0):
        budget = least + share * (most - least)
        found = allocation.least_damage(made, budget)
        best = min(damage for size, damage in known if size <= budget)
        assert found.bytes <= budget
        largest = max(one.damage for group in made for one in group.candidates)
        assert found.damage == pytest.approx(best, rel=1e-5, abs=2e-6 * largest)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_smaller_keeps_within_a_damage(seed: int) -> None:
    made = groups(seed)
    known = every(made)
    for limit in sorted(damage for _, damage in known)[:: len(known) // 4]:
        found = allocation.least_bytes(made, limit)
        best = min(size for size, damage in known if damage <= limit)
        assert found.damage <= limit * (1 + 1e-6)
        assert found.bytes <= best * (1 + 1e-6)


def test_the_frontier_is_that_of_all_allocations() -> None:
    made = groups(3, 5)
    points = allocation.frontier(made, 12)
    known = every(made)
    for one in points:
        assert one.damage <= min(d for size, d in known if size <= one.bytes) + 1e-6
    assert [o.bytes for o in points] == sorted({o.bytes for o in points})
    assert points[0].bytes == allocation.byte_range(made)[0]
    assert points[-1].damage == 0


def test_a_hundred_groups_are_solved_at_once() -> None:
    made = groups(1, 120, layers=30)
    budget = allocation.bytes_of_bits(made, 4.6)
    found = allocation.least_damage(made, budget)
    assert found.bytes <= budget
    assert found.damage < allocation.head_and_tail(made, budget).damage
    assert all(found.damage < allocation.at_random(made, budget, s).damage for s in range(5))


def test_a_budget_that_is_too_small_says_what_is_possible() -> None:
    made = groups(0)
    least, most = allocation.byte_range(made)
    weights = sum(group.weights for group in made)
    words = (
        rf"{least:,} to {most:,} \({8 * least / weights:.2f} to 16.00 bits a weight\); give more"
    )
    for choose in (allocation.least_damage, allocation.head_and_tail):
        with pytest.raises(UsageError, match=words):
            choose(made, least - 1)
    with pytest.raises(UsageError, match=words):
        allocation.at_random(made, least - 1, 0)
    without = [
        Group(g.name, g.modules, g.weights, tuple(c for c in g.candidates if c.damage))
        for g in groups(1)
    ]
    with pytest.raises(UsageError, match=r"is too little: these formats do .* at least"):
        allocation.least_bytes(without, 0.0)


def test_bits_are_the_mean_over_weights_with_what_unpacking_reads() -> None:
    made = groups(2)
    for name, bits in BITS.items():
        whole = [g for g in made if name in {c.format for c in g.candidates}]
        size = allocation.uniform(whole, name).bytes
        assert size == pytest.approx(allocation.bytes_of_bits(whole, bits), abs=len(whole))


def test_a_group_without_a_format_stays_unquantized() -> None:
    candidates = (Candidate("int8", 10, 0.1), Candidate(UNQUANTIZED, 20, 0.0))
    found = allocation.uniform([Group("g", ("m",), 10, candidates)], "int4")
    assert [one.format for one in found.chosen] == [UNQUANTIZED]


def test_outer_layers_are_raised_first_as_far_as_there_is_room() -> None:
    candidates = (Candidate("int4", 4, 1.0), Candidate("int8", 8, 0.1))
    made = [Group(f"g{i}", (f"m{i}",), 8, candidates, layer=i) for i in range(6)]
    words = [one.format for one in allocation.head_and_tail(made, 24 + 3 * 4 + 1).chosen]
    assert words == ["int8", "int8", "int4", "int4", "int4", "int8"]


@pytest.mark.parametrize("seed", range(5))
def test_a_random_allocation_fills_the_budget(seed: int) -> None:
    made = groups(7, 60, layers=10)
    budget = allocation.bytes_of_bits(made, 5)
    found = allocation.at_random(made, budget, seed)
    assert budget * (1 - allocation.EQUAL_BYTES) < found.bytes <= budget
    assert found == allocation.at_random(made, budget, seed)
    assert found != allocation.at_random(made, budget, seed + 1)


def test_neighbours_are_the_uniform_formats_on_either_side() -> None:
    candidates = (Candidate("int4", 4, 1.0), Candidate("int8", 8, 0.1))
    made = [Group(f"g{i}", (f"m{i}",), 8, candidates, layer=i) for i in range(3)]
    assert allocation.neighbours(made, 11) == (None, "int4")
    assert allocation.neighbours(made, 12) == ("int4", "int8")
    assert allocation.neighbours(made, 24) == ("int8", None)


def test_sums_are_exact() -> None:
    assert Allocation((Candidate("a", 1, 0.1),) * 10).damage == math.fsum([0.1] * 10)


def test_what_a_kernel_joins_moves_together() -> None:
    names = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.k_proj",
        "model.layers.0.self_attn.v_proj",
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.mlp.gate_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.experts.0.up_proj",
        "model.layers.1.mlp.experts.1.down_proj",
        "model.layers.1.self_attn.query_key_value",
    ]
    found = fused_groups(names)
    assert list(found) == [
        "model.layers.0.self_attn.qkv_proj",
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.mlp.gate_up_proj",
        "model.layers.1.mlp.experts",
        "model.layers.1.self_attn.query_key_value",
    ]
    assert found["model.layers.0.self_attn.qkv_proj"] == tuple(names[:3])
    assert len(found["model.layers.1.mlp.experts"]) == 2
    assert fused_name("lm_head") == "lm_head"


def test_what_the_solver_prints_stays_off_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with allocation._silent_library():
        os.write(1, b"HighsMipSolverData")
    print("result")
    assert capfd.readouterr().out == "result\n"
