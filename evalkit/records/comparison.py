"""A comparison: a baseline and its variants, with values, differences and verdicts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from evalkit.displayable import Displayable, display
from evalkit.errors import unknown
from evalkit.records.column import Column
from evalkit.records.decomposition import Decomposition
from evalkit.records.equal_bytes import EqualBytes
from evalkit.records.run import Direction, Environment, Model, Status
from evalkit.records.suite import Suite
from evalkit.records.variant import Variant
from evalkit.records.verdict import Verdict, Word


@dataclass(frozen=True)
class Value:
    """A summarised metric of one row: value with interval, and its difference to the baseline.

    `low` and `high` bound the value; `delta`, `delta_low`, `delta_high` bound variant − baseline
    (paired); None means not measured or not available, never zero. `verdict` is the `Word` that
    those bounds allow at the margin, `claim` what both intervals speak of ("" for speed and size),
    `direction` which way is better.
    """

    value: float | None
    unit: str
    n: int = 0
    low: float | None = None
    high: float | None = None
    delta: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None
    verdict: str = Word.NOT_MEASURED
    details: dict[str, Any] = field(default_factory=dict)
    claim: str = ""
    direction: Direction = "none"


class Metrics(dict[str, Value]):
    """Values by the name of their metric; the error for a mistyped name has those that are near."""

    def __missing__(self, name: str) -> Value:
        raise KeyError(str(unknown("metric", name, self)))


@dataclass(frozen=True)
class Row:
    """One variant of a comparison.

    `label` is what its backend calls the variant in tables and charts ("int8 LLM.int8()"); empty in
    results that were stored without it.
    `verdict` is the row's overall finding at the margin, with its evidence and its claim.
    `decomposition` has its weights and its kernel apart, where that was asked for.
    """

    variant: Variant
    status: Status
    message: str = ""
    kernel: str = ""
    verdict: Verdict = field(default_factory=Verdict)
    metrics: dict[str, Value] = field(default_factory=dict)
    slices: dict[str, dict[str, Value]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    label: str = ""
    decomposition: Decomposition | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", Metrics(self.metrics))
        slices = {text: Metrics(values) for text, values in self.slices.items()}
        object.__setattr__(self, "slices", slices)


@dataclass(frozen=True)
class Flip:
    """A task item that is right under one variant and wrong under the other.

    `target` is the right answer in words, `gold` its place among the choices (None where the answer
    is generated, or several are right). Margins are in nats: by how much the right choice beats the
    best wrong one (None for generated answers). `is_coin_flip` marks an item whose margins are
    within the noise of rounding, which is no damage.
    """

    task: str
    item: int
    variant: str
    direction: Literal["right→wrong", "wrong→right"]
    prompt: str
    choices: tuple[str, ...]
    target: str
    baseline_loglikelihoods: tuple[float, ...] = ()
    variant_loglikelihoods: tuple[float, ...] = ()
    baseline_margin: float | None = None
    variant_margin: float | None = None
    baseline_answer: str = ""
    variant_answer: str = ""
    is_coin_flip: bool = False
    gold: int | None = None

    def is_right(self, choice: int) -> bool:
        """Whether the choice at this place is the right answer."""
        if self.gold is not None:
            return choice == self.gold
        return self.choices[choice].strip() == self.target.strip()


@dataclass(frozen=True, repr=False)
class Comparison(Displayable):
    """A baseline run and its variants: values, paired differences, verdicts, noise floor.

    `columns` are those of the table, as the metrics declare them; `equal_bytes` has the variants by
    their bytes, with the paired differences of their divergences. `only` names what alone was asked
    for, in the words of `--only`; it is empty where everything was.
    """

    model: Model
    suite: Suite
    baseline: str
    margin: str
    rows: tuple[Row, ...]
    noise_floor: dict[str, float] = field(default_factory=dict)
    environment: Environment | None = None
    sentence: str = ""
    notes: tuple[str, ...] = ()
    store: str = ""
    command: str = ""
    columns: tuple[Column, ...] = ()
    only: tuple[str, ...] = ()
    equal_bytes: EqualBytes = field(default_factory=EqualBytes)

    @property
    def is_partial(self) -> bool:
        """Whether it ended before its baseline and one variant beside it were whole."""
        done = [row.status == "ok" for row in self.rows]
        unfinished = any(row.status in ("interrupted", "running") for row in self.rows)
        return unfinished or not all(done[:1]) or not any(done[1:] or done)

    def frame(self, *, wide: bool = False) -> Any:
        """The numbers as a pandas DataFrame.

        One value a row, with unit, interval, paired difference and verdict; or, where `wide`, one
        variant a row and one metric a column.
        """
        return display().frame(self, wide=wide)

    def flips(self, task: str | None = None) -> Any:
        """The items that changed between right and wrong, to browse in a notebook."""
        return display().flip_browser(self, task)

    def worst_tokens(self, variant: str | None = None, count: int = 20) -> Any:
        """The tokens that `variant` (default the last) makes least likely against the baseline."""
        return display().worst_tokens(self, variant, count)
