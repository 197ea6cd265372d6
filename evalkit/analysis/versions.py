"""Library versions behind two sets of runs: what they make incomparable, and what is worth a note.

Speed and memory are compared under equal versions only. Quality hardly depends on them, so it is
compared, and a note names both versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from evalkit.records import Environment, Run


def speed_difference(baseline: Sequence[Run], other: Sequence[Run]) -> str:
    """Which library's version differs between two measurements of speed; "" where none does."""
    mine, theirs = _packages(_probes(baseline)), _packages(_probes(other))
    named = _named(mine, theirs)
    return f"speed and memory are not compared: {named} for the baseline" if named else ""


def quality_notes(
    baseline: Sequence[Run], other: Sequence[Run], now: Environment | None
) -> tuple[str, ...]:
    """Lines for quality that was measured under other versions than the baseline's, or today's."""
    mine, theirs = _packages(_quality(baseline)), _packages(_quality(other))
    notes = []
    if named := _named(mine, theirs):
        notes.append(f"quality was measured with {named} for the baseline")
    if now is not None and (named := _named(now.packages, theirs)):
        notes.append(f"quality was measured with {named} today: --fresh measures it again")
    return tuple(notes)


def _named(reference: Mapping[str, str], found: Mapping[str, str]) -> str:
    """The packages that both name and that differ: "torch 2.12 and 2.13"."""
    shared = [name for name in found if name in reference and found[name] != reference[name]]
    return ", ".join(f"{name} {found[name]} and {reference[name]}" for name in shared)


def _packages(runs: Iterable[Run]) -> dict[str, str]:
    """Versions by package; those of the runs made last count."""
    found: dict[str, str] = {}
    for run in sorted(runs, key=lambda run: run.created):
        found |= run.environment.packages if run.environment else {}
    return found


def _probes(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if not run.suite.texts and not run.suite.tasks]


def _quality(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.suite.texts or run.suite.tasks]
