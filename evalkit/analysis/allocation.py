"""Which format each module takes under a budget: a knapsack with one choice for each group.

The damage of a mix is taken to be the sum of the damages of its parts, each alone in the model
that is not quantized; `evalkit sensitivity` measures how far that holds. The choice itself is
exact: it is a mixed-integer programme, solved by HiGHS through scipy.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from evalkit.errors import EvalkitError, UsageError
from evalkit.records import UNQUANTIZED

# Allocations whose bytes differ by less than this share are compared as equally large.
EQUAL_BYTES = 0.005


@dataclass(frozen=True)
class Candidate:
    """One format of a group: its exact bytes, scales included, and its damage in nats a token."""

    format: str
    bytes: int
    damage: float


@dataclass(frozen=True)
class Group:
    """Modules that one kernel holds in one format; `weights` is how many weights they have.

    `layer` is the number of their decoder layer, None for what lies in none.
    """

    name: str
    modules: tuple[str, ...]
    weights: int
    candidates: tuple[Candidate, ...]
    layer: int | None = None

    def in_format(self, name: str) -> Candidate:
        """The candidate of that format; unquantized where the group's widths do not allow it.

        Raises EvalkitError where it cannot be left unquantized either.
        """
        for wanted in (name, UNQUANTIZED):
            for one in self.candidates:
                if one.format == wanted:
                    return one
        raise EvalkitError(f"{self.name} can be held neither as {name} nor unquantized")


@dataclass(frozen=True)
class Allocation:
    """The candidate of each group, in the order of the groups."""

    chosen: tuple[Candidate, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all groups."""
        return sum(one.bytes for one in self.chosen)

    @property
    def damage(self) -> float:
        """The sum of the damages, in nats a token."""
        return math.fsum(one.damage for one in self.chosen)


def least_damage(groups: Sequence[Group], most_bytes: float) -> Allocation:
    """The allocation of least damage in at most `most_bytes`; of equal ones a smallest.

    Raises UsageError as `check_room` does.
    """
    check_room(groups, most_bytes)
    sizes = _column(groups, "bytes")
    # In steps that all sizes are multiples of, the budget is a small whole number.
    step = math.gcd(*(int(size) for size in sizes))
    room = math.floor(most_bytes / step)
    found = _solve(groups, _column(groups, "damage"), sizes / step, room)
    return _solve_ties(groups, found)


def check_room(groups: Sequence[Group], most_bytes: float) -> None:
    """Raise UsageError, with the range that is possible, where no allocation is so small."""
    least, most = byte_range(groups)
    if most_bytes < least:
        raise UsageError(
            f"{most_bytes:,.0f} bytes are too few for the quantizable weights: these formats take"
            f" {least:,} to {most:,} ({_bits(groups, least):.2f} to {_bits(groups, most):.2f} bits"
            " a weight); give more, or a smaller format"
        )


def least_bytes(groups: Sequence[Group], most_damage: float) -> Allocation:
    """The smallest allocation whose summed damage is at most `most_damage` nats.

    Raises UsageError, with what is possible, where every allocation does more.
    """
    least = math.fsum(min(one.damage for one in group.candidates) for group in groups)
    if most_damage < least:
        raise UsageError(
            f"a damage of {most_damage:g} nats is too little: these formats do {least:.3g} at"
            " least; give more, or name a larger format"
        )
    damages = _column(groups, "damage")
    scale = max(float(np.abs(damages).max()), 1e-30)
    return _solve(groups, _column(groups, "bytes"), damages / scale, most_damage / scale)


def frontier(groups: Sequence[Group], points: int = 24) -> tuple[Allocation, ...]:
    """The best allocations from the fewest bytes to the most, each of less damage than the last.

    Budgets are spread evenly; where one buys nothing against a smaller one, it is left out.
    """
    least, most = byte_range(groups)
    budgets = np.unique(np.linspace(least, most, points).round())
    found: list[Allocation] = []
    for budget in budgets:
        one = least_damage(groups, float(budget))
        if not found or (one.damage < found[-1].damage and one.bytes > found[-1].bytes):
            found.append(one)
    return tuple(found)


def byte_range(groups: Sequence[Group]) -> tuple[int, int]:
    """Bytes of the smallest and of the largest allocation."""
    sizes = [[one.bytes for one in group.candidates] for group in groups]
    return sum(map(min, sizes)), sum(map(max, sizes))


def bytes_of_bits(groups: Sequence[Group], bits: float) -> float:
    """Bytes of all groups at a mean of `bits` a weight, scales included."""
    return bits * sum(group.weights for group in groups) / 8


def uniform(groups: Sequence[Group], name: str) -> Allocation:
    """Every group in one format, as far as its widths allow it."""
    return Allocation(tuple(group.in_format(name) for group in groups))


def formats(groups: Sequence[Group]) -> tuple[str, ...]:
    """The formats that occur, the one whose uniform allocation is smallest first."""
    names = dict.fromkeys(one.format for group in groups for one in group.candidates)
    return tuple(sorted(names, key=lambda name: uniform(groups, name).bytes))


def neighbours(groups: Sequence[Group], size: int) -> tuple[str | None, str | None]:
    """The largest format whose uniform allocation takes at most `size` bytes, and the next larger.

    None where there is none.
    """
    smaller = [name for name in formats(groups) if uniform(groups, name).bytes <= size]
    larger = [name for name in formats(groups) if name not in smaller]
    return (smaller[-1] if smaller else None), (larger[0] if larger else None)


def head_and_tail(groups: Sequence[Group], most_bytes: float) -> Allocation:
    """What is commonly done without a map: the outermost layers in the next larger format.

    All groups begin in the largest uniform format that fits; then the first layer, the last one,
    the second and so on are raised while there is room. Where no uniform format fits, all begin
    in their smallest. Raises UsageError as `check_room` does.
    """
    check_room(groups, most_bytes)
    low, high = neighbours(groups, math.floor(most_bytes))
    chosen = [min(group.candidates, key=lambda one: one.bytes) for group in groups]
    if low is not None:
        chosen = list(uniform(groups, low).chosen)
    size = sum(one.bytes for one in chosen)
    for index in _outside_in(groups) if high is not None else ():
        raised = groups[index].in_format(str(high))
        if raised.bytes > chosen[index].bytes and (
            size + raised.bytes - chosen[index].bytes <= most_bytes
        ):
            size += raised.bytes - chosen[index].bytes
            chosen[index] = raised
    return Allocation(tuple(chosen))


def at_random(groups: Sequence[Group], most_bytes: float, seed: int) -> Allocation:
    """An allocation drawn by `seed` that fills the budget: no group could be one step larger.

    Every group takes a format by chance; groups by chance are then made smaller until all fit, and
    larger as long as there is room. Raises UsageError as `check_room` does.
    """
    check_room(groups, most_bytes)
    drawn = random.Random(seed)
    ladders = [sorted(group.candidates, key=lambda one: one.bytes) for group in groups]
    rungs = [drawn.randrange(len(ladder)) for ladder in ladders]
    size = sum(ladder[rung].bytes for ladder, rung in zip(ladders, rungs, strict=True))
    while size > most_bytes:
        index = drawn.choice([i for i, rung in enumerate(rungs) if rung > 0])
        size -= ladders[index][rungs[index]].bytes - ladders[index][rungs[index] - 1].bytes
        rungs[index] -= 1
    raised = True
    while raised:
        raised = False
        for index in drawn.sample(range(len(groups)), len(groups)):
            ladder, rung = ladders[index], rungs[index]
            if rung + 1 < len(ladder):
                more = ladder[rung + 1].bytes - ladder[rung].bytes
                if size + more <= most_bytes:
                    size, raised = size + more, True
                    rungs[index] += 1
    return Allocation(tuple(ladder[rung] for ladder, rung in zip(ladders, rungs, strict=True)))


def _solve(
    groups: Sequence[Group], costs: NDArray[np.float64], loads: NDArray[np.float64], room: float
) -> Allocation:
    """One candidate a group: the least sum of `costs` whose sum of `loads` is within `room`."""
    # HiGHS takes costs for equal that differ by less than 1e-6: here a millionth of the largest.
    scale = max(float(np.abs(costs).max()), 1e-30)
    counts = [len(group.candidates) for group in groups]
    rows = np.repeat(np.arange(len(groups)), counts)
    one_each = csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))))
    with _silent_library():
        solved = milp(
            costs / scale,
            integrality=np.ones(len(costs)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(loads[None, :], -np.inf, room),
            ],
            options={"mip_rel_gap": 1e-6},
        )
    if solved.x is None:
        raise EvalkitError(f"the allocation could not be solved: {solved.message}")
    starts = np.cumsum([0, *counts[:-1]])
    picked = [
        group.candidates[int(np.argmax(solved.x[start : start + count]))]
        for group, start, count in zip(groups, starts, counts, strict=True)
    ]
    return Allocation(tuple(picked))


@contextlib.contextmanager
def _silent_library() -> Iterator[None]:
    """Keep off stdout, which is for results, what HiGHS prints past Python to debug itself."""
    flush = ctypes.CDLL(None if os.name == "posix" else "ucrtbase").fflush
    sys.stdout.flush()
    flush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _solve_ties(groups: Sequence[Group], found: Allocation) -> Allocation:
    """The allocation with every candidate exchanged for a smaller one that does no more damage."""
    return Allocation(
        tuple(
            min(
                (one for one in group.candidates if one.damage <= chosen.damage),
                key=lambda one: one.bytes,
            )
            for group, chosen in zip(groups, found.chosen, strict=True)
        )
    )


def _column(groups: Sequence[Group], name: str) -> NDArray[np.float64]:
    values = [getattr(one, name) for group in groups for one in group.candidates]
    return np.asarray(values, dtype=np.float64)


def _bits(groups: Sequence[Group], size: float) -> float:
    return 8 * size / sum(group.weights for group in groups)


def _outside_in(groups: Sequence[Group]) -> Iterator[int]:
    """Numbers of the groups that lie in a layer: first layer, last layer, second, last but one."""
    layers = sorted({group.layer for group in groups if group.layer is not None})
    order = sorted(layers, key=lambda layer: (min(layer, layers[-1] - layer), layer))
    for layer in order:
        yield from (i for i, group in enumerate(groups) if group.layer == layer)
