"""The held-out verdict: a gain only at equal bytes, over all budgets, and not of noise."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from test_allocation import groups

from evalkit.analysis import allocation
from evalkit.analysis.allocation import Allocation, Candidate, Group
from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.search import (
    SIGNIFICANT,
    Evidence,
    adjusted,
    advice,
    held_out,
    p_of_no_gain,
    with_verdicts,
)
from evalkit.records import Comparison, Model, Suite
from evalkit.records.equal_bytes import EqualBytes, FormatPair, FormatRow
from evalkit.records.search import FoundMix

CLEAR = Interval(-0.02, -0.03, -0.01)
WEAK = Interval(-0.02, -0.05, 0.01)
CHANCE = (0.20, 0.21, 0.19, 0.205, 0.195)
GOOD = Evidence(CLEAR, CLEAR, 0.15, CHANCE)


def test_all_three_must_speak_for_a_gain() -> None:
    assert p_of_no_gain(GOOD) < 0.01
    for change in (
        {"heuristic": WEAK},
        {"random": WEAK},
        {"kl": 0.193},
        {"heuristic": Interval(0.02, 0.01, 0.03)},
    ):
        assert p_of_no_gain(replace(GOOD, **change)) > SIGNIFICANT
    assert p_of_no_gain(replace(GOOD, equal=False)) == 1.0
    assert p_of_no_gain(replace(GOOD, heuristic=Interval(-0.1, np.nan, np.nan))) == 1.0


def test_several_budgets_ask_for_more() -> None:
    one = replace(GOOD, heuristic=Interval(-0.02, -0.0398, -0.0002))
    assert p_of_no_gain(one) < SIGNIFICANT
    assert adjusted([one])[0] == pytest.approx(p_of_no_gain(one))
    first, none, second = adjusted([one, None, one])
    assert none is None and first == second == pytest.approx(2 * p_of_no_gain(one))


def test_a_map_of_pure_noise_claims_a_gain_in_at_most_five_percent_of_searches() -> None:
    """The map has nothing to do with the damage that the held-out text shows."""
    claims = sum(claims_gain(seed, informed=False) for seed in range(200))
    assert claims <= 10


def test_a_true_map_is_found_to_gain() -> None:
    assert sum(claims_gain(seed, informed=True) for seed in range(20)) >= 10


def claims_gain(seed: int, *, informed: bool) -> bool:
    """Whether a simulated search at one budget claims a gain."""
    true = groups(seed, 16, layers=8)
    drawn = random.Random(seed)
    noise = [
        replace(g, candidates=tuple(replace(c, damage=drawn.random()) for c in g.candidates))
        for g in true
    ]
    budget = allocation.bytes_of_bits(true, 5.0)
    mix = allocation.least_damage(true if informed else noise, budget)
    chance = [allocation.at_random(true, budget, 5 * seed + n) for n in range(5)]
    heuristic = allocation.head_and_tail(true, budget)
    everything = [mix, heuristic, *chance]
    documents = np.random.default_rng(seed).lognormal(0, 0.5, (60, 1))
    shown = documents * np.array([true_damage(true, one) for one in everything])
    shown *= np.random.default_rng(seed + 1).lognormal(0, 0.1, shown.shape)
    means = shown.mean(0)
    median = 2 + int(np.argsort(means[2:])[2])
    evidence = Evidence(
        paired(shown[:, 0] - shown[:, 1]),
        paired(shown[:, 0] - shown[:, median]),
        float(means[0]),
        tuple(means[2:]),
    )
    p = adjusted([evidence])[0]
    assert p is not None
    return p < SIGNIFICANT


def true_damage(true: list[Group], found: Allocation) -> float:
    return sum(g.in_format(c.format).damage for g, c in zip(true, found.chosen, strict=True))


def paired(difference: np.ndarray) -> Interval:
    error = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    return Interval(difference.mean(), difference.mean() - error, difference.mean() + error)


def comparison(sizes: dict[str, float], kls: dict[str, float]) -> Comparison:
    rows = tuple(
        FormatRow(n, (n,), sizes[n], 4.0, 4.0, kl, kl - 0.01, kl + 0.01, kl, kl, "front")
        for n, kl in kls.items()
    )
    names = list(kls)
    pairs = tuple(
        FormatPair(b, a, kls[b] - kls[a], kls[b] - kls[a] - 0.01, kls[b] - kls[a] + 0.01)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    )
    return Comparison(
        Model("m", "i"), Suite("s", convention="", context=0, bos=""), "fp16", "1pp", (),
        equal_bytes=EqualBytes(rows, pairs),
    )  # fmt: skip


RIVALS = (
    ("head and tail", "head and tail", "h"),
    *(("random", "random", f"r{n}") for n in range(5)),
    ("smaller", "int4,group_size=64", "s"),
)
KLS = {"s": 0.3, "h": 0.25, "mix": 0.1, **{f"r{n}": 0.30 + 0.01 * n for n in range(5)}}
SIZES = dict.fromkeys(KLS, 100.0) | {"s": 90.0}


def found(kls: dict[str, float], sizes: dict[str, float] = SIZES) -> FoundMix:
    rivals, evidence = held_out(comparison(sizes, kls), "mix", RIVALS)
    mix = FoundMix(100, 100, 4.0, (), 0.1, "mix", "p.yaml", held_out=rivals)
    return with_verdicts([mix], [evidence])[0]


def test_rivals_are_paired_whichever_comes_first() -> None:
    mix = found(KLS)
    told = {one.against: one for one in mix.held_out}
    assert list(told) == ["head and tail", "random (median of 5)", "int4,group_size=64"]
    assert told["head and tail"].delta.value == pytest.approx(-0.15)
    assert told["random (median of 5)"].variant == "r2"
    assert told["random (median of 5)"].delta.high == pytest.approx(-0.21)
    assert not told["int4,group_size=64"].has_equal_bytes
    assert mix.has_gain and mix.advice.startswith("Use the mix: at equal bytes it is closer")


@pytest.mark.parametrize(
    ("kls", "sizes", "advised"),
    [
        ({**KLS, "mix": 0.249}, SIZES, "No better than the heuristic (ΔKL -0.0010 [-0.0110, +0.0"),
        ({**KLS, "mix": 0.29}, SIZES, "Use the head and tail heuristic: the mix is worse"),
        (KLS, {**SIZES, "h": 99.0}, "No gain is claimed, as its rivals do not take equal bytes"),
        (
            {**KLS, "r0": 0.05, "r4": 0.5, "mix": 0.2},
            SIZES,
            "Closer than the head and tail heuristic (ΔKL -0.0500 [-0.0600, -0.0400]), but not",
        ),
        ({**KLS, "s": 0.101}, SIZES, "Use the mix: "),
    ],
)
def test_what_is_advised(kls: dict[str, float], sizes: dict[str, float], advised: str) -> None:
    mix = found(kls, sizes)
    assert mix.advice.replace("−", "-").startswith(advised)
    assert mix.has_gain == advised.startswith("Use the mix")
    told = "int4,group_size=64 is smaller and not told from it"
    assert (told in mix.advice) == (kls["s"] == 0.101)


def test_what_was_not_measured_is_no_verdict() -> None:
    mix = found({name: kl for name, kl in KLS.items() if name != "h"})
    assert mix.p_value is None and not mix.has_gain
    assert mix.advice == "Not compared on held-out text."
    failed = replace(mix, message="out of memory")
    assert advice(failed) == "Not measured: out of memory."
    assert held_out(comparison(SIZES, {"h": 0.1}), "mix", RIVALS) == ((), None)


def test_groups_of_one_format_have_nothing_to_choose() -> None:
    made = [Group("g", ("m",), 8, (Candidate("int8", 8, 0.1),))]
    assert allocation.head_and_tail(made, 8) == allocation.at_random(made, 8, 0)
