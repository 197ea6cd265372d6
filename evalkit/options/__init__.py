"""What can be asked of each command, declared once; see evalkit.declaration for what follows.

Groups of options are shared by commands. Only what concerns how a result is shown (`--format`,
`--dry-run`) stands at the command line itself.
"""

from __future__ import annotations

from evalkit.options.commands import (
    COMMANDS,
    AnswersOptions,
    BatchOptions,
    BenchOptions,
    CompareOptions,
    DoctorOptions,
    PlanOptions,
    PullOptions,
    QuantizeOptions,
    SearchOptions,
    SensitivityOptions,
    SpeculateOptions,
)
from evalkit.options.groups import LoadOptions
from evalkit.options.values import MEASURED, contexts, seconds

__all__ = [
    "COMMANDS",
    "MEASURED",
    "AnswersOptions",
    "BatchOptions",
    "BenchOptions",
    "CompareOptions",
    "DoctorOptions",
    "LoadOptions",
    "PlanOptions",
    "PullOptions",
    "QuantizeOptions",
    "SearchOptions",
    "SensitivityOptions",
    "SpeculateOptions",
    "contexts",
    "seconds",
]
