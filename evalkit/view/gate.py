"""What a gate found, as lines and as JUnit XML."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from evalkit.analysis.gate import Judgement
from evalkit.view.numbers import clean


def gate_text(found: Sequence[Judgement]) -> str:
    """One line a judgement, and one that counts."""
    lines = [
        f"{'pass' if one.passed else 'FAIL'}  {clean(one.variant)}  {one.limit}  "
        f"{clean(one.message)}"
        for one in found
    ]
    failed = sum(not one.passed for one in found)
    return "\n".join([*lines, f"{len(found)} limits checked, {failed} not held"])


def junit(found: Sequence[Judgement]) -> str:
    """A JUnit test suite: a case a judgement, in the class of its variant."""
    suite = ElementTree.Element(
        "testsuite",
        name="evalkit check",
        tests=str(len(found)),
        failures=str(sum(not one.passed for one in found)),
        errors="0",
    )
    for one in found:
        name = f"{one.limit} {clean(one.metric)}".strip()
        case = ElementTree.SubElement(
            suite, "testcase", classname=clean(one.variant), name=name, time="0"
        )
        if not one.passed:
            ElementTree.SubElement(case, "failure", message=clean(one.message))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
