"""What the doctor says of this machine, as text and as JSON.

The JSON object has the schema "evalkit.doctor/1": `ok` and `checks`, each with `name`, `status`
(good, warning, broken, unknown), `found` and `fix`.
"""

from __future__ import annotations

from evalkit.numbers import clean
from evalkit.records import to_json as plain
from evalkit.records.findings import MachineReport
from evalkit.view.export import json_text

SCHEMA = "evalkit.doctor/1"


def to_text(report: MachineReport) -> str:
    """A line for each check; below it the command that mends what is not good."""
    width = max((len(check.name) for check in report.checks), default=0)
    lines = []
    for one in report.checks:
        lines.append(f"{one.status:<7}  {one.name:<{width}}  {clean(one.found)}")
        if one.fix:
            lines.append(f"{'':<7}  {'':<{width}}  to mend it: {clean(one.fix)}")
    return "\n".join(lines)


def to_json(report: MachineReport) -> str:
    """One object (see the module's docstring)."""
    return json_text({"schema": SCHEMA, "ok": report.healthy(), **plain(report)})
