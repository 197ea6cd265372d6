"""The nouns of evalkit: plain frozen records, standard library only, importable without torch.

Everything that is stored or shown is one of these. `to_json` and `from_json` turn any of them
into plain dictionaries and back; the store adds the schema version.
"""

from __future__ import annotations

from evalkit.records.column import Column
from evalkit.records.comparison import Comparison, Flip, Row, Value
from evalkit.records.mix import MIXED, UNQUANTIZED, Mix
from evalkit.records.run import Cost, Direction, Environment, Measurement, Model, Run, Status
from evalkit.records.serialization import content_hash, from_json, to_json
from evalkit.records.suite import Suite, TaskSlice, TextSlice
from evalkit.records.variant import OptionValue, Variant
from evalkit.records.verdict import Claim, Verdict, Word

__all__ = [
    "MIXED",
    "UNQUANTIZED",
    "Claim",
    "Column",
    "Comparison",
    "Cost",
    "Direction",
    "Environment",
    "Flip",
    "Measurement",
    "Mix",
    "Model",
    "OptionValue",
    "Row",
    "Run",
    "Status",
    "Suite",
    "TaskSlice",
    "TextSlice",
    "Value",
    "Variant",
    "Verdict",
    "Word",
    "content_hash",
    "from_json",
    "to_json",
]
