"""Whether a mix is better than what the same bytes buy without a search: the held-out verdict.

Three things have to be ruled out, and the weakest evidence counts: that the common heuristic does
as well, that the median random allocation does as well (both paired, token by token, on text that
nobody searched on), and that the mix is no more than a lucky random allocation itself, which a map
of pure noise would give. The last is a prediction interval: how far below their mean would one more
random allocation lie by chance?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, stdtr

from evalkit import numbers
from evalkit.analysis.allocation import EQUAL_BYTES
from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.paired import holm
from evalkit.analysis.summaries import CONFIDENT
from evalkit.analysis.verdicts import judge
from evalkit.records import Comparison, Word
from evalkit.records.equal_bytes import FormatRow
from evalkit.records.search import Difference, FoundMix, Rival, RivalKind

SIGNIFICANT = 0.05
HEURISTIC: RivalKind = "head and tail"
RANDOM: RivalKind = "random"


@dataclass(frozen=True)
class Evidence:
    """What the held-out text says of one mix, in nats a token.

    `heuristic` and `random` are its paired differences from the heuristic and from the median of
    the random allocations, `kl` its own divergence and `by_chance` those of all of the latter.
    `equal` says that all of them take its bytes.
    """

    heuristic: Interval
    random: Interval
    kl: float
    by_chance: tuple[float, ...]
    equal: bool = True


def p_of_no_gain(evidence: Evidence) -> float:
    """The largest of the three p-values; 1 where bytes are unequal or the mix is not below both."""
    paired = (evidence.heuristic, evidence.random)
    if not evidence.equal or not all(one.estimate < 0 for one in paired):
        return 1.0
    return max(*map(_paired_p, paired), _chance_p(evidence.kl, evidence.by_chance))


def adjusted(evidences: Sequence[Evidence | None]) -> tuple[float | None, ...]:
    """P-values of no gain, adjusted over the budgets (Holm); None where there is no evidence."""
    known = [one for one in evidences if one is not None]
    found = iter(holm([p_of_no_gain(one) for one in known]) if known else ())
    return tuple(None if one is None else next(found) for one in evidences)


def held_out(
    comparison: Comparison, mix: str, rivals: Sequence[tuple[RivalKind, str, str]]
) -> tuple[tuple[Rival, ...], Evidence | None]:
    """The rivals of the variant labelled `mix` on the text of a comparison, and what they say.

    `rivals` are kind, name and label of each; of the random allocations the one with the median
    divergence stands for all. The evidence is None where one that it needs was not measured.
    """
    rows = {label: row for row in comparison.equal_bytes.rows for label in row.variants}
    if mix not in rows:
        return (), None
    floor = comparison.noise_floor.get("kl_divergence_mean", 0.0)
    found = [
        _rival(comparison, rows[mix], rows[label], (kind, name, label), mix, floor)
        for kind, name, label in rivals
        if label in rows
    ]
    chance = sorted((one for one in found if one.kind == RANDOM), key=lambda one: one.kl)
    kept = [one for one in found if one.kind != RANDOM]
    if chance:
        median = chance[(len(chance) - 1) // 2]
        kept.insert(1, replace(median, against=f"random (median of {len(chance)})"))
    heuristic = next((one for one in found if one.kind == HEURISTIC), None)
    if heuristic is None or len(chance) < 2:
        return tuple(kept), None
    evidence = Evidence(
        _interval(heuristic),
        _interval(median),
        rows[mix].kl,
        tuple(one.kl for one in chance),
        heuristic.has_equal_bytes and all(one.has_equal_bytes for one in chance),
    )
    return tuple(kept), evidence


def with_verdicts(
    mixes: Sequence[FoundMix], evidences: Sequence[Evidence | None]
) -> tuple[FoundMix, ...]:
    """The mixes with their p-values over all budgets, whether they gain, and what to do."""
    found = []
    for mix, p in zip(mixes, adjusted(evidences), strict=True):
        has_gain = p is not None and p < SIGNIFICANT
        judged = replace(mix, p_value=p, has_gain=has_gain)
        found.append(replace(judged, advice=advice(judged)))
    return tuple(found)


def advice(mix: FoundMix) -> str:
    """One sentence: use the mix, or what does as well without a search."""
    if mix.message:
        return f"Not measured: {mix.message}."
    rivals = {one.kind: one for one in mix.held_out}
    heuristic = rivals.get(HEURISTIC)
    if heuristic is None:
        return "Not compared on held-out text."
    told = f"ΔKL {_signed(heuristic.delta)}"
    if mix.has_gain:
        return (
            f"Use the mix: at equal bytes it is closer than the head and tail heuristic ({told})"
            f" and than random allocations (ΔKL {_signed(rivals[RANDOM].delta)}),"
            f" p {numbers.small(mix.p_value or 0.0)}{_smaller_too(rivals.get('smaller'))}."
        )
    if heuristic.delta.verdict == Word.WORSE:
        return f"Use the head and tail heuristic: the mix is worse ({told})."
    if not all(one.has_equal_bytes for one in mix.held_out if one.kind in (HEURISTIC, RANDOM)):
        return f"No gain is claimed, as its rivals do not take equal bytes ({told})."
    if heuristic.delta.verdict == Word.BETTER:
        return (
            f"Closer than the head and tail heuristic ({told}), but not told from what random"
            f" allocations reach by chance (p {numbers.small(mix.p_value or 0.0)})."
        )
    return f"No better than the heuristic ({told}): search bought nothing here."


def _smaller_too(smaller: Rival | None) -> str:
    """A warning where the next smaller uniform format is not told from the mix."""
    if smaller is None or smaller.delta.verdict == Word.BETTER:
        return ""
    return f"; {smaller.against} is smaller and not told from it"


def _rival(
    comparison: Comparison,
    own: FormatRow,
    other: FormatRow,
    named: tuple[RivalKind, str, str],
    mix: str,
    floor: float,
) -> Rival:
    kind, name, label = named
    pairs = {(pair.variant, pair.other): pair for pair in comparison.equal_bytes.pairs}
    if (mix, label) in pairs:
        pair = pairs[mix, label]
        delta = Interval(pair.delta, pair.low, pair.high)
    else:
        pair = pairs[label, mix]
        delta = Interval(-pair.delta, -pair.high, -pair.low)
    word = judge(delta, margin=0.0, direction="lower", noise_floor=floor)
    return Rival(
        against=name,
        kind=kind,
        variant=label,
        bytes=other.bytes,
        kl=other.kl,
        low=other.low,
        high=other.high,
        delta=Difference(delta.estimate, delta.low, delta.high, word),
        has_equal_bytes=abs(other.bytes - own.bytes) <= EQUAL_BYTES * own.bytes,
    )


def _interval(rival: Rival) -> Interval:
    return Interval(rival.delta.value, rival.delta.low, rival.delta.high)


def _paired_p(delta: Interval) -> float:
    """Two-sided p of no difference, by the width of the 95 % interval."""
    if not delta.is_possible:
        return 1.0
    error = (delta.high - delta.low) / (2 * CONFIDENT)
    if error <= 0:
        return 0.0 if delta.estimate else 1.0
    return float(2 * ndtr(-abs(delta.estimate) / error))


def _chance_p(kl: float, by_chance: Sequence[float]) -> float:
    """P that one more random allocation lies at `kl` or below, by Student's t."""
    spread = float(np.std(by_chance, ddof=1)) * math.sqrt(1 + 1 / len(by_chance))
    below = float(np.mean(by_chance)) - kl
    if spread <= 0:
        return 0.0 if below > 0 else 1.0
    return float(stdtr(len(by_chance) - 1, -below / spread))


def _signed(delta: Difference) -> str:
    def write(value: float) -> str:
        return f"{numbers.MINUS if value < 0 else '+'}{numbers.small(abs(value))}"

    return f"{write(delta.value)} [{write(delta.low)}, {write(delta.high)}]"
