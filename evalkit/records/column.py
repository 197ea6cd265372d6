"""A column of a comparison's table, as plain data beside the values it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cell = Literal["size", "bits", "speed", "difference", "divergence", "agreement", "points"]


@dataclass(frozen=True)
class Column:
    """A column that shows one metric.

    The file of the metric declares it, and a comparison keeps it: a machine that does not have the
    metric shows the column all the same. `cell` says how values and noise floor are written:

    size        bytes of the baseline, then how many times smaller: "9.6 MB", "÷ 1.8"
    bits        bits a weight of each row: "6.8"
    speed       tokens a second of the baseline, then how many times faster: "88 tok/s", "× 1.3"
    difference  the baseline's value, then what is added: "3.69 ± 0.12", "+ 0.12 [0.10, 0.14]"
    divergence  a distance from the baseline, which has none: "0.0042", "3.1e-07"
    agreement   a share of what is as in the baseline, which has none: "98.7 %"
    points      a share of items, then percentage points: "87.3 % ± 1.5", "- 0.4 [-1.0, 0.2]"

    `measured_on` names what a suite must have for it. Columns stand in the order of `place`; where
    they do not all fit, those of the lowest `importance` stay. A comparison that was `asked` for
    something else has nothing to show in it.
    """

    metric: str
    title: str
    cell: Cell
    measured_on: Literal["model", "texts", "tasks"] = "texts"
    place: int = 100
    importance: int = 100
    asked: bool = True
