"""What a gate found, as text, JSON and JUnit XML.

The JSON object has the schema "evalkit.check/1": `passed`, whether all limits held, and in
`judgements` the fields of each.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from xml.etree import ElementTree

from evalkit.analysis.gate import Judgement
from evalkit.numbers import clean, counted
from evalkit.view.export import json_text

SCHEMA = "evalkit.check/1"


@dataclass(frozen=True)
class Judgements:
    """Every limit on every variant, each passed or not."""

    items: tuple[Judgement, ...]

    @property
    def passed(self) -> bool:
        """Whether all limits held."""
        return all(one.passed for one in self.items)


def to_text(found: Judgements) -> str:
    """One line a judgement, and one that counts."""
    lines = [
        f"{'pass' if one.passed else 'FAIL'}  {clean(one.variant)}  {one.limit}  "
        f"{clean(one.message)}"
        for one in found.items
    ]
    failed = sum(not one.passed for one in found.items)
    return "\n".join([*lines, f"{counted(len(found.items), 'limit')} checked, {failed} not held"])


def to_json(found: Judgements) -> str:
    """One object (see the module's docstring)."""
    judgements = [dataclasses.asdict(one) for one in found.items]
    return json_text({"schema": SCHEMA, "passed": found.passed, "judgements": judgements})


def to_junit(found: Judgements) -> str:
    """A JUnit test suite: a case a judgement, in the class of its variant."""
    suite = ElementTree.Element(
        "testsuite",
        name="evalkit check",
        tests=str(len(found.items)),
        failures=str(sum(not one.passed for one in found.items)),
        errors="0",
    )
    for one in found.items:
        name = f"{one.limit} {clean(one.metric)}".strip()
        case = ElementTree.SubElement(
            suite, "testcase", classname=clean(one.variant), name=name, time="0"
        )
        if not one.passed:
            ElementTree.SubElement(case, "failure", message=clean(one.message))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
