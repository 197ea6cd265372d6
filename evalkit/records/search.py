"""The best mixes of a model's formats under budgets, and how they do on text nobody searched on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evalkit.displayable import Displayable
from evalkit.records.run import Environment, Model

SCHEMA = "evalkit.search/1"

# What the same bytes buy otherwise, and the uniform formats on either side.
RivalKind = Literal["head and tail", "random", "smaller", "larger"]


@dataclass(frozen=True)
class PlannedModule:
    """The format of one module of a mix, and the bytes that it takes, scales included."""

    module: str
    format: str
    bytes: int


@dataclass(frozen=True)
class Difference:
    """Mean KL divergence of a mix less that of a rival, paired by tokens, in nats (95 %)."""

    value: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Rival:
    """What a mix is compared with on held-out text: `against` says in words what it is.

    `bytes` are those of all weights. `has_equal_bytes` says that they are within half a percent of
    the mix's: only there a gain is claimed.
    """

    against: str
    kind: RivalKind
    variant: str
    bytes: float
    kl: float
    low: float
    high: float
    delta: Difference
    has_equal_bytes: bool


@dataclass(frozen=True)
class FoundMix:
    """The mix of one budget.

    `budget_bytes` and `bytes` are of all weights, the latter as the variant was loaded, and
    `bits` the mean over the quantizable weights, scales included. `predicted_kl` is what the damage
    map says in nats, `kl` with its bounds what the held-out text says, None where it was not
    measured. `p_value` is that of no gain at equal bytes, adjusted over all budgets (Holm).
    `checkpoint` is the directory of the mix, `plan_file` that of its plan, `loaders` say what loads
    it. `message` says why it could not be measured.
    """

    budget_bytes: int
    bytes: int
    bits: float
    plan: tuple[PlannedModule, ...]
    predicted_kl: float
    variant: str
    plan_file: str
    checkpoint: str = ""
    loaders: tuple[str, ...] = ()
    kl: float | None = None
    low: float | None = None
    high: float | None = None
    held_out: tuple[Rival, ...] = ()
    p_value: float | None = None
    has_gain: bool = False
    advice: str = ""
    message: str = ""


@dataclass(frozen=True)
class FrontierPoint:
    """An allocation by what it costs: bytes of all weights, bits, and the damage that is predicted.

    `format` names a uniform one; it is empty for the best mix of those bytes.
    """

    bytes: int
    bits: float
    predicted_kl: float
    format: str = ""


@dataclass(frozen=True)
class Search(Displayable):
    """Mixes of `formats`, one for each budget, the first asked for first.

    The damage of formats in `swapped` was measured by exchanging module after module, that of the
    others scaled by the error of their weights. `calibration_texts`, `sensitivity_texts` and
    `evaluation_texts` name three disjoint parts. `additivity` is the map's, by which the sum of
    damages was divided.
    """

    model: Model
    baseline: str
    backend: str
    formats: tuple[str, ...]
    swapped: tuple[str, ...]
    mixes: tuple[FoundMix, ...]
    frontier: tuple[FrontierPoint, ...] = ()
    additivity: float | None = None
    sensitivity_tokens: int = 0
    calibration_texts: tuple[str, ...] = ()
    sensitivity_texts: tuple[str, ...] = ()
    evaluation_texts: tuple[str, ...] = ()
    environment: Environment | None = None
    notes: tuple[str, ...] = ()
    store: str = ""
    command: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether every mix was made and measured."""
        return not any(mix.message for mix in self.mixes)
