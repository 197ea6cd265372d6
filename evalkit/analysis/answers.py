"""How the answers of a variant differ from the baseline's to the same prompts; pure functions.

Greedy text is a chain of decisions: after the first other token everything may follow. So three
things are kept apart: whether and where two answers part, by how little the baseline had decided
there (its lead), and how far the variant's predictions are from the baseline's along the whole of
the baseline's own answer, whatever the variant itself would have gone on with.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from evalkit.analysis.answer_faults import (
    asks_for_json,
    holds_json,
    is_looping,
    is_right,
    script_of,
)
from evalkit.analysis.bootstrap import Interval, bootstrap_interval, bootstrap_percentile
from evalkit.analysis.paired import mean_interval, paired_difference
from evalkit.analysis.verdicts import Margin, judge_task
from evalkit.errors import EvalkitError
from evalkit.numbers import counted
from evalkit.records import Claim, Word
from evalkit.records.answers import (
    Answer,
    AnswersRow,
    Checked,
    Estimate,
    NoiseFloor,
    Prompt,
    StopReason,
)

BATCH = "half as many prompts at once"


@dataclass(frozen=True)
class Said:
    """What a variant said to one prompt, and by how much each token led the next best, in nats."""

    text: str
    tokens: tuple[int, ...]
    stop: StopReason
    leads: tuple[float, ...]
    seconds: float = 0.0


@dataclass(frozen=True)
class Along:
    """A variant's predictions along the baseline's answers, summed over the tokens of each.

    float64 (prompts,): KL divergence in nats, tokens with the same likeliest token, tokens.
    """

    kl: npt.NDArray[np.float64]
    same_top1: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.float64]


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The index of the first token that differs, or that only one of the two has; None for none."""
    for index, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def noise_floor(pairs: Sequence[tuple[Said, Said]]) -> NoiseFloor:
    """Answers of the baseline, each as it came out twice under two batch sizes."""
    forks = [first_difference(one.tokens, two.tokens) for one, two in pairs]
    changes: list[float] = []
    for (one, two), fork in zip(pairs, forks, strict=True):
        # Up to the fork, and at it, both were asked the same.
        shared = zip(one.leads[:fork], two.leads[:fork], strict=False)
        changes += [abs(a - b) for a, b in shared if math.isfinite(a - b)]
        if fork is not None and fork < min(len(one.leads), len(two.leads)):
            # There the leads point to other tokens: one has fallen to nothing, and turned.
            changes.append(one.leads[fork] + two.leads[fork])
    forked = _share([fork is not None for fork in forks])
    return NoiseFloor(forked, max(changes, default=None), BATCH)


def judged(prompts: Sequence[Prompt], said: Sequence[Said]) -> tuple[Answer, ...]:
    """The baseline's own answers with what can be said of each by itself."""
    return tuple(
        Answer(
            prompt=index,
            text=one.text,
            tokens=one.tokens,
            stop=one.stop,
            seconds=one.seconds,
            right=is_right(prompt, one.text),
            is_looping=is_looping(one.tokens),
            is_broken_json=asks_for_json(prompt) and not holds_json(one.text),
        )
        for index, (prompt, one) in enumerate(zip(prompts, said, strict=True))
    )


def parted(
    answers: Sequence[Answer], baseline: Sequence[Answer], leads: Sequence[Sequence[float]]
) -> tuple[Answer, ...]:
    """Answers with where each parts from the baseline's, whose leads in nats are given."""
    found = []
    for answer, base, lead in zip(answers, baseline, leads, strict=True):
        fork = first_difference(answer.tokens, base.tokens)
        margin = lead[fork] if fork is not None and fork < len(lead) else None
        scripts = script_of(answer.text), script_of(base.text)
        found.append(
            dataclasses.replace(
                answer,
                first_difference=fork,
                margin=margin,
                is_other_script=all(scripts) and scripts[0] != scripts[1],
            )
        )
    return tuple(found)


def with_summary(
    row: AnswersRow, prompts: Sequence[Prompt], answers: Sequence[Answer]
) -> AnswersRow:
    """The row with its answers and what can be said of them without a baseline."""
    asked = [answer for answer in answers if asks_for_json(prompts[answer.prompt])]
    right = [float(answer.right) for answer in answers if answer.right is not None]
    return dataclasses.replace(
        row,
        answers=tuple(answers),
        length=_mean([float(len(answer.tokens)) for answer in answers]),
        looping=_share([answer.is_looping for answer in answers]),
        empty=_share([not answer.text.strip() for answer in answers]),
        broken_json=_share([answer.is_broken_json for answer in asked]) if asked else None,
        checks=Checked(_mean(right), verdict=Word.BASELINE) if right else None,
    )


def with_differences(
    row: AnswersRow, baseline: AnswersRow, floor: NoiseFloor | None, margin: Margin, most: int
) -> AnswersRow:
    """The row with its differences from the baseline's; answers have up to `most` tokens."""
    forks = [answer.first_difference for answer in row.answers]
    leads = [answer.margin for answer in row.answers if answer.margin is not None]
    tie = floor.margin if floor else None
    ties = [lead <= tie for lead in leads] if tie is not None else []
    lengths = [[float(len(one.tokens)) for one in side.answers] for side in (baseline, row)]
    return dataclasses.replace(
        row,
        identical=_share([fork is None for fork in forks]),
        survival=tuple((n, _share([f is None or f >= n for f in forks])) for n in _points(most)),
        first_difference_median=_median([fork for fork in forks if fork is not None]),
        near_ties=_share(ties) if ties else None,
        margin_median=float(np.median(leads)) if leads else None,
        length_delta=_paired(lengths[0], lengths[1]),
        other_script=_share([answer.is_other_script for answer in row.answers]),
        checks=_checked(row, baseline, margin),
    )


def with_divergence(row: AnswersRow, along: Along) -> AnswersRow:
    """The row with its divergence along the baseline's own answers."""
    tokens = int(along.tokens.sum())
    return dataclasses.replace(
        row,
        divergence=_ratio(along.kl, along.tokens, tokens),
        same_top1=_ratio(along.same_top1, along.tokens, tokens),
    )


def sentence(rows: Sequence[AnswersRow], prompts: int) -> str:
    """The finding in a sentence: how many answers are the baseline's, and what was lost."""
    base, *others = rows
    asked = counted(prompts, "prompt")
    told = [row for row in others if row.identical is not None]
    if not told:
        return f"{base.label} answered {asked}."
    as_base = f" of {asked} token for token as {base.label} does"
    words = [_words(row, "" if index else as_base) for index, row in enumerate(told)]
    return f"{'; '.join(words)}."


def most_telling(row: AnswersRow, baseline: AnswersRow, count: int) -> list[Answer]:
    """Answers that differ, the most telling first: right to wrong, loops, then clear decisions."""

    def rank(answer: Answer) -> tuple[bool, bool, float]:
        base = baseline.answers[answer.prompt]
        lost = base.right is True and answer.right is False
        loops = answer.is_looping and not base.is_looping
        return lost, loops, answer.margin or 0.0

    differing = [answer for answer in row.answers if answer.first_difference is not None]
    return sorted(differing, key=rank, reverse=True)[:count]


def _words(row: AnswersRow, as_base: str) -> str:
    assert row.identical is not None
    same = round(row.identical.value * row.identical.n)
    words = f"{row.label}{' answers' if as_base else ''} {same}{as_base}"
    if row.checks is None or row.checks.delta is None:
        return words
    flips = {
        "right to wrong": row.checks.right_to_wrong,
        "wrong to right": row.checks.wrong_to_right,
    }
    told = [f"{count} {way}" for way, count in flips.items() if count]
    return f"{words} ({', '.join(told) or 'no flip'})"


def _checked(row: AnswersRow, baseline: AnswersRow, margin: Margin) -> Checked | None:
    pairs = [
        (float(base.right), float(answer.right))
        for base, answer in zip(baseline.answers, row.answers, strict=True)
        if base.right is not None and answer.right is not None
    ]
    if row.checks is None or not pairs:
        return None
    base, mine = zip(*pairs, strict=True)
    paired = paired_difference(base, mine)
    return dataclasses.replace(
        row.checks,
        delta=_estimate(paired.interval, paired.n),
        right_to_wrong=paired.right_to_wrong or 0,
        wrong_to_right=paired.wrong_to_right or 0,
        p=paired.p_value,
        verdict=str(judge_task(paired, margin.points, paired.p_value)),
    )


def _points(most: int) -> list[int]:
    """Numbers of tokens at which the curve of survival is told: powers of two, and the last."""
    return [*(2**power for power in range(20) if 2**power < most), most]


def _share(held: Sequence[bool]) -> Estimate:
    return _mean([float(one) for one in held])


def _mean(values: Sequence[float]) -> Estimate:
    return _estimate(mean_interval(values), len(values))


def _paired(baseline: Sequence[float], variant: Sequence[float]) -> Estimate:
    return _estimate(paired_difference(baseline, variant).interval, len(variant))


def _median(values: Sequence[int]) -> Estimate | None:
    if not values:
        return None
    return _bounded(
        float(np.median(values)),
        partial(bootstrap_percentile, values, np.arange(len(values)), 50, claim=Claim.DOCUMENTS),
        len(values),
    )


def _ratio(sums: npt.NDArray[np.float64], tokens: npt.NDArray[np.float64], count: int) -> Estimate:
    """The mean over tokens with its interval over prompts."""
    return _bounded(
        float(sums.sum() / tokens.sum()),
        partial(
            bootstrap_interval,
            lambda totals: totals[:, 0] / totals[:, 1],
            np.stack([sums, tokens], 1),
            groups=np.arange(len(sums)),
            claim=Claim.TEXTS,
        ),
        count,
    )


def _bounded(value: float, interval: Callable[[], Interval], count: int) -> Estimate:
    """`value` with the bounds of an interval, where there are enough answers for one."""
    try:
        found = interval()
    except EvalkitError:
        return Estimate(value, n=count)
    return dataclasses.replace(_estimate(found, count), value=value)


def _estimate(interval: Interval, count: int) -> Estimate:
    if not interval.is_possible:
        return Estimate(interval.estimate, n=count)
    return Estimate(interval.estimate, float(interval.low), float(interval.high), count)
