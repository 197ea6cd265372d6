"""A verdict: what may be concluded of a variant, on which evidence, and what that claims."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Word(StrEnum):
    """What may be concluded about a difference; the value is the text shown.

    NO_LOSS means no loss beyond the margin. INCONCLUSIVE means that more data could decide.
    CHANGED is said of what has no better or worse, such as a divergence.
    """

    BETTER = "better"
    WORSE = "worse"
    NO_LOSS = "no loss"
    INCONCLUSIVE = "inconclusive"
    CHANGED = "changed"
    NOT_COMPARABLE = "not comparable"
    NOT_MEASURED = "not measured"
    NOT_ASKED = "not asked for"
    BASELINE = "baseline"

    @property
    def is_harmless(self) -> bool:
        """Whether a loss beyond the margin is ruled out."""
        return self in (Word.BETTER, Word.NO_LOSS)

    @property
    def is_decided(self) -> bool:
        """Whether the data were enough for a finding in one direction."""
        return self.is_harmless or self is Word.WORSE


class Claim(StrEnum):
    """Of what an interval speaks: what would be drawn anew if the measurement were repeated.

    TOKENS: nothing; only the noise floor of the arithmetic is random.
    DOCUMENTS: other passages of the same documents.
    TEXTS: other documents of the same kind.
    ITEMS: other items of the same task.
    """

    TOKENS = "these tokens"
    DOCUMENTS = "more of the same documents"
    TEXTS = "texts like this"
    ITEMS = "items like these"


@dataclass(frozen=True)
class Verdict:
    """The finding on one row of a comparison; table, JSON, report, charts and advice read it.

    Attributes:
        word: the finding, a `Word`.
        metric: name of the metric among the row's that the finding rests on.
        claim: what it speaks of, a `Claim`.
        evidence: in words, strongest first: the metric's paired difference with its interval, size
            and claim, then what else was measured, then how much changed in whatever direction.
        is_beyond_margin: the whole interval is a loss larger than the margin; of a row that is
            worse without it, the loss is certain and its size against the margin is not.
        items_needed: items on top that would decide, None where none would or none are needed.
        judged: names of all metrics that the row was judged by; `check` takes the tasks from them.
    """

    word: str = Word.NOT_MEASURED
    metric: str = ""
    claim: str = ""
    evidence: tuple[str, ...] = ()
    is_beyond_margin: bool = False
    items_needed: int | None = None
    judged: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The verdict in words fit for a table: "no loss", "inconclusive: 900 more items"."""
        if self.word == Word.INCONCLUSIVE and self.items_needed:
            return f"{self.word}: {self.items_needed:,} more items"
        if self.word == Word.WORSE and not self.is_beyond_margin:
            return f"{self.word}: margin undecided"
        if self.word == Word.NOT_MEASURED and self.evidence:
            return f"{self.word}: {self.evidence[0]}"
        return str(self.word)
