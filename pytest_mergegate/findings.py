"""Coded findings: what the stages noticed and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pytest_mergegate.errors import PoolError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing worth knowing, under a stable code."""

    code: str
    severity: Severity
    message: str
    fix: str
    expert: str | None = None
    """The expert concerned; None for the base or the whole pool."""

    def __str__(self) -> str:
        about = f"{self.expert}: " if self.expert else ""
        return f"{self.code} {about}{self.message}" + (f" (fix: {self.fix})" if self.fix else "")

    @classmethod
    def of(cls, error: PoolError) -> Finding:
        """The finding that files ``error`` in the report."""
        located = f"{error.where}: {error.what}" if error.where else error.what
        return cls(
            code=error.code,
            severity="error",
            message=located,
            fix=error.fix or "",
            expert=error.expert,
        )
