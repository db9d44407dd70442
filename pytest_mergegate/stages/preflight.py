"""Stage 1: does everything load, and does it belong together? Headers and numpy only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.pool.pool import Pool, read_pool
from pytest_mergegate.preflight import RULES

if TYPE_CHECKING:
    from pytest_mergegate.gate.gatefile import Gate


@dataclass(frozen=True, kw_only=True)
class PreflightResult:
    """What was read, and what is wrong with it."""

    pool: Pool | None
    """None where something could not be read."""
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether the next stages have something sound to work on."""
        return self.pool is not None and not any(f.severity == "error" for f in self.findings)


def run_preflight(gate: Gate) -> PreflightResult:
    """Read the pool and apply every rule; all findings at once."""
    pool, errors = read_pool(gate)
    findings = [Finding.of(error) for error in errors]
    if pool is not None:
        for rule in RULES:
            findings.extend(_softened(finding, gate) for finding in rule.apply(pool))
    return PreflightResult(pool=pool, findings=tuple(findings))


def _softened(finding: Finding, gate: Gate) -> Finding:
    """A finding that the gate file ignores becomes a warning with the reason given there."""
    reason = gate.spec.ignore.get(finding.code)
    if reason is None:
        return finding
    if finding.final:
        return replace(finding, fix=f"{finding.fix}; {finding.code} cannot be ignored here")
    return replace(finding, severity="warning", fix=f"ignored by the gate file: {reason}")
