"""The nouns of `evalkit doctor`: findings on a variant, and checks of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["problem", "warning", "information"]
CheckStatus = Literal["good", "warning", "broken", "unknown"]


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


@dataclass(frozen=True)
class MachineCheck:
    """One thing a machine needs: what was found, and the command that mends it ("" where good)."""

    name: str
    status: CheckStatus
    found: str
    fix: str = ""


@dataclass(frozen=True)
class MachineReport:
    """All checks of this machine."""

    checks: tuple[MachineCheck, ...]

    def healthy(self, *, strict: bool = False) -> bool:
        """Whether nothing is broken; with `strict` nothing is in doubt either."""
        bad = {"broken", "warning", "unknown"} if strict else {"broken"}
        return not any(check.status in bad for check in self.checks)
