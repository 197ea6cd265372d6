"""The verdict on a row: one finding from its tasks and texts, and the evidence in words.

Two lines of evidence have a direction. The *tasks* are harmless where each of them is (an
intersection-union test, which needs no adjustment), worse where any is by Holm's adjustment, and
else undecided. The *text* is the paired log-likelihood, shown as perplexity. The row is

1. worse, where a line is: on the stronger one, a loss beyond the margin before any other;
2. else not comparable, where a task was asked otherwise than the baseline;
3. else what a harmless line says: the tasks' before the text's;
4. else undecided.

A divergence has no sign: it says how much changed and never decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalkit.analysis.evidence import divergence_words, paired_words
from evalkit.analysis.task_values import ItemScores
from evalkit.analysis.verdicts import Margin, delta_of, is_beyond, loss_bounds, noise_of
from evalkit.records import Value, Verdict, Word

TEXT_METRICS = ("perplexity", "word_perplexity")


@dataclass(frozen=True)
class Judged:
    """One metric with a direction: its value, and the margin in the value's unit."""

    metric: str
    value: Value
    margin: float
    is_share: bool = False

    @property
    def word(self) -> str:
        """What its interval allows to be said."""
        return self.value.verdict

    @property
    def is_beyond(self) -> bool:
        """Whether it is worse, and the whole interval is a loss beyond the margin."""
        return self.word == Word.WORSE and is_beyond(
            delta_of(self.value),
            margin=self.margin,
            direction=self.value.direction,
            noise_floor=noise_of(self.value),
        )

    @property
    def strength(self) -> float:
        """How many half widths of its interval the difference is away from none."""
        delta = delta_of(self.value)
        half = (delta.high - delta.low) / 2
        return abs(delta.estimate) / half if half > 0 else math.inf

    @property
    def closeness(self) -> float:
        """The most that may be lost, in margins."""
        most = loss_bounds(delta_of(self.value), self.value.direction)[1]
        return most / self.margin if self.margin > 0 else most

    @property
    def words(self) -> str:
        """The difference with its interval, size and claim."""
        return paired_words(self.metric, self.value, self.is_share)


@dataclass(frozen=True)
class Line:
    """A line of evidence: its finding, and the metric that it rests on."""

    word: Word
    chosen: Judged
    items_needed: int | None = None


def row_verdict(
    metrics: Mapping[str, Value], tasks: Mapping[str, ItemScores], margin: Margin
) -> Verdict:
    """The verdict on a row with these values; `tasks` are the items behind its task scores."""
    of_tasks = judged_tasks(metrics, tasks, margin)
    of_texts = judged_texts(metrics, margin)
    lines = [line for line in (_tasks_line(of_tasks), _text_line(of_texts)) if line]
    if not lines:
        return Verdict()
    line = _deciding(lines)
    others = [other.chosen.words for other in lines if other is not line]
    return Verdict(
        word=line.word,
        metric=line.chosen.metric,
        claim=line.chosen.value.claim,
        evidence=(line.chosen.words, *others, *divergence_words(metrics)),
        is_beyond_margin=line.chosen.is_beyond,
        items_needed=line.items_needed,
        judged=tuple(one.metric for one in (*of_tasks, *of_texts)),
    )


def judged_tasks(
    metrics: Mapping[str, Value], tasks: Mapping[str, ItemScores], margin: Margin
) -> list[Judged]:
    """The score that stands for each task."""
    found = []
    for key, scores in tasks.items():
        if scores.primary and key in metrics:
            value = metrics[key]
            reference = (value.value or 0.0) - (value.delta or 0.0)
            allowed = margin.points if scores.is_mean else margin.of(reference)
            found.append(Judged(key, value, allowed, scores.is_mean))
    return found


def judged_texts(metrics: Mapping[str, Value], margin: Margin) -> list[Judged]:
    """The perplexity that stands for the texts; there is one at most."""
    for name in TEXT_METRICS:
        if name in metrics:
            value = metrics[name]
            reference = (value.value or 0.0) - (value.delta or 0.0)
            return [Judged(name, value, margin.of(reference))]
    return []


def _tasks_line(tasks: Sequence[Judged]) -> Line | None:
    """Harmless where every task is; worse where any is; else undecided or not comparable."""
    if not tasks:
        return None
    refused = [one for one in tasks if one.word in (Word.NOT_COMPARABLE, Word.NOT_MEASURED)]
    if refused:
        return Line(Word(refused[0].word), refused[0])
    worse = [one for one in tasks if one.word == Word.WORSE]
    if worse:
        return Line(Word.WORSE, max(worse, key=_certainty))
    closest = max(tasks, key=lambda one: one.closeness)
    open_tasks = [one for one in tasks if not Word(one.word).is_harmless]
    if open_tasks:
        needed = [int(one.value.details.get("items_needed") or 0) for one in open_tasks]
        total = sum(needed) if all(needed) else None
        return Line(Word.INCONCLUSIVE, max(open_tasks, key=lambda one: one.closeness), total)
    better = [one for one in tasks if one.word == Word.BETTER]
    if better:
        return Line(Word.BETTER, max(better, key=_certainty))
    return Line(Word.NO_LOSS, closest)


def _text_line(texts: Sequence[Judged]) -> Line | None:
    return Line(Word(texts[0].word), texts[0]) if texts else None


def _deciding(lines: Sequence[Line]) -> Line:
    """The line that decides; tasks stand before texts in `lines`."""
    worse = [line for line in lines if line.word is Word.WORSE]
    if worse:
        return max(worse, key=lambda line: _certainty(line.chosen))
    if lines[0].word is Word.NOT_COMPARABLE:
        return lines[0]
    return next((line for line in lines if line.word.is_harmless), lines[0])


def _certainty(one: Judged) -> tuple[bool, float]:
    return one.is_beyond, one.strength
