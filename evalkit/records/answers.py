"""What variants answer to the same prompts, and how their answers differ from the baseline's.

Shares lie between 0 and 1 and have intervals over prompts; a difference is variant minus baseline.
What was not measured, or is said of no answer, is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.displayable import Displayable, display
from evalkit.records.run import Environment, Model, Status

# The end token, a stop string, or as many tokens as were allowed.
StopReason = Literal["end", "string", "length"]
Check = Literal["exact", "contains", "regex", "number", "json"]


@dataclass(frozen=True)
class Message:
    """A turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """A text to be continued, or a chat to be answered (then `text` is its last turn).

    `check` says how `reference` is looked for in an answer; it is empty where answers are compared
    with the baseline's alone.
    """

    text: str
    messages: tuple[Message, ...] = ()
    reference: str = ""
    check: Check | Literal[""] = ""


@dataclass(frozen=True)
class Answer:
    """What a variant answered to the prompt with this index.

    `first_difference` is the index of the first token that is not the baseline's (None where all
    are, and in the baseline's own answers) and `margin` by how many nats the baseline's likeliest
    token led the second there. `right` is what the prompt's check says.
    """

    prompt: int
    text: str
    tokens: tuple[int, ...]
    stop: StopReason
    seconds: float = 0.0
    first_difference: int | None = None
    margin: float | None = None
    right: bool | None = None
    is_looping: bool = False
    is_broken_json: bool = False
    is_other_script: bool = False


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; `n` answers (or tokens, of a mean over tokens) carry it."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0


@dataclass(frozen=True)
class Checked:
    """Answers with a check: the share that is right, and the paired difference to the baseline.

    `verdict` is the `Word` that the difference allows at the margin; flips count both ways.
    """

    right: Estimate
    delta: Estimate | None = None
    right_to_wrong: int = 0
    wrong_to_right: int = 0
    p: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class NoiseFloor:
    """The baseline's answers, generated anew under another batch size.

    `forked` is the share of answers that came out otherwise; `margin` is the largest change of the
    lead of the likeliest token, in nats, where both had gone the same way: a lead no larger is a
    tie, which rounding decides. It is None where tokens are drawn. `batch` says in words how the
    second time differed.
    """

    forked: Estimate
    margin: float | None
    batch: str


@dataclass(frozen=True)
class AnswersRow:
    """One variant: its answers, and how they differ from the baseline's.

    `identical` is the share of answers with the baseline's tokens, `survival` the share that is
    still the same after so many tokens. `first_difference_median` is that of the answers that
    differ, `near_ties` the share of these that part where the baseline's lead lies within the noise
    floor, `margin_median` that lead. `divergence` is the mean KL divergence per token, in nats,
    along the baseline's own answers, `same_top1` the share of their tokens at which both find the
    same token likeliest. `length` is the mean number of tokens, `length_delta` its paired
    difference; the last are shares of answers.
    """

    variant: str
    resolved: str
    status: Status = "ok"
    message: str = ""
    label: str = ""
    kernel: str = ""
    identical: Estimate | None = None
    survival: tuple[tuple[int, Estimate], ...] = ()
    first_difference_median: Estimate | None = None
    near_ties: Estimate | None = None
    margin_median: float | None = None
    divergence: Estimate | None = None
    same_top1: Estimate | None = None
    length: Estimate | None = None
    length_delta: Estimate | None = None
    looping: Estimate | None = None
    empty: Estimate | None = None
    broken_json: Estimate | None = None
    other_script: Estimate | None = None
    checks: Checked | None = None
    answers: tuple[Answer, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers(Displayable):
    """The answers of variants of one model to the same prompts, the baseline's first.

    `decoding` says in words how tokens were chosen.
    """

    model: Model
    baseline: str
    prompts: tuple[Prompt, ...]
    rows: tuple[AnswersRow, ...]
    noise_floor: NoiseFloor | None = None
    margin: str = ""
    decoding: str = ""
    sentence: str = ""
    notes: tuple[str, ...] = ()
    environment: Environment | None = None
    store: str = ""
    command: str = ""

    def side_by_side(self) -> Any:
        """The answers beside the baseline's, to browse in a notebook."""
        return display().answer_browser(self)

    def save_page(self, file: str | Path) -> None:
        """Write the page of the answers, one HTML file that needs no network."""
        Path(file).write_text(display().page(self), encoding="utf-8")
