"""What the doctor found, as lines and as JSON."""

from __future__ import annotations

import json

from evalkit.records import to_json
from evalkit.records.findings import Diagnosis
from evalkit.view.numbers import clean

SCHEMA = "evalkit.diagnosis/1"


def diagnosis_text(diagnosis: Diagnosis) -> str:
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


def dumps(diagnosis: Diagnosis) -> str:
    """One object with the schema "evalkit.diagnosis/1"."""
    content = {"schema": SCHEMA, "healthy": diagnosis.healthy(), **to_json(diagnosis)}
    return json.dumps(content, indent=2, ensure_ascii=False)
