"""Coded findings: what the stages noticed and what to do about it."""

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pytest_mergegate.common.errors import GateError, PoolError
from pytest_mergegate.common.plain_text import cut
from pytest_mergegate.common.statuses import Severity


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing worth knowing, under a stable code."""

    code: str
    severity: Severity
    message: str
    fix: str
    expert: str | None = None
    """The expert concerned; None for the base or the whole pool."""
    line: int | None = None
    """Of the gate file, where the problem is one of its own."""
    final: bool = False
    """Whether nothing right could be computed, so that no ``ignore:`` may soften it."""
    discreet: str | None = None
    """What to say where ``message`` may hold text of examples or answers, and none of it is to be
    shown."""

    def __post_init__(self) -> None:
        """Keep the texts fit for every format: one line each, of bounded length."""
        object.__setattr__(self, "message", cut(self.message))
        object.__setattr__(self, "fix", cut(self.fix))

    def __str__(self) -> str:
        about = f"{self.expert}: " if self.expert else ""
        return f"{self.code} {about}{self.message}" + (f" (fix: {self.fix})" if self.fix else "")

    @classmethod
    def of(cls, error: PoolError) -> Self:
        """The finding that files ``error`` in the report."""
        return cls(
            code=error.code,
            severity="error",
            message=error.located,
            fix=error.fix or "",
            expert=error.expert,
            final=True,
            discreet=error.discreet,
        )


def file_finding(error: GateError) -> Finding:
    """The finding that files a problem of a gate file, or of a setting, in the report."""
    return Finding(
        code="MG000", severity="error", message=error.located, fix=error.fix or "", line=error.line
    )


def cache_finding(problem: str) -> Finding:
    """The finding that tells why something had to be computed, or could not be kept."""
    fix = "mergegate cache shows where it is, and mergegate cache --clear empties it"
    return Finding(code="MG501", severity="warning", message=problem, fix=fix)


def internal_finding(error: Exception) -> Finding:
    """The finding that files a bug of this package in the report."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    said = f"internal error at {where}: {type(error).__name__}"
    fix = "please report this, with the log of the logger pytest_mergegate"
    message = f"{said}: {error}"
    return Finding(code="MG900", severity="error", message=message, fix=fix, discreet=said)
