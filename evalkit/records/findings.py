"""The nouns of `evalkit doctor`: findings, each with what, why it matters and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["problem", "warning", "information"]


@dataclass(frozen=True)
class Finding:
    """One thing a check found."""

    check: str
    level: Level
    what: str
    why: str
    fix: str

    @property
    def line(self) -> str:
        """The finding in one line."""
        return f"{self.what}: {self.why}; {self.fix}"


@dataclass(frozen=True)
class Diagnosis:
    """All findings on a variant, the checks that ran, and the kernel that ran."""

    variant: str
    model: str
    kernel: str
    checks: tuple[str, ...]
    findings: tuple[Finding, ...]
    seconds: float

    def healthy(self, *, strict: bool = False) -> bool:
        """Whether no problem was found; with `strict` no warning either."""
        bad = {"problem", "warning"} if strict else {"problem"}
        return not any(finding.level in bad for finding in self.findings)
