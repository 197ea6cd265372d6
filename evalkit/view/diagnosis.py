"""What the doctor found, as text and as JSON.

The JSON object has the schema "evalkit.diagnosis/1": `healthy` and the fields of the diagnosis.
"""

from __future__ import annotations

from evalkit.numbers import clean
from evalkit.records import to_json as plain
from evalkit.records.findings import Diagnosis
from evalkit.view.export import json_text

SCHEMA = "evalkit.diagnosis/1"


def to_text(diagnosis: Diagnosis) -> str:
    """A heading, then what, why and what to do of each finding."""
    lines = [
        f"{clean(diagnosis.model)} · {clean(diagnosis.variant)} · {clean(diagnosis.kernel)}"
        f" · {len(diagnosis.checks)} checks in {diagnosis.seconds:.1f} s"
    ]
    for one in diagnosis.findings:
        lines += ["", f"{one.level}: {one.check}: {clean(one.what)}"]
        lines += [f"  why it matters: {clean(one.why)}", f"  what to do: {clean(one.fix)}"]
    if not diagnosis.findings:
        lines += ["", "nothing found"]
    return "\n".join(lines)


def to_json(diagnosis: Diagnosis) -> str:
    """One object (see the module's docstring)."""
    return json_text({"schema": SCHEMA, "healthy": diagnosis.healthy(), **plain(diagnosis)})
