"""What rules say: findings without their code, and those that several experts share, told once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.pool.pool import Pool

Findings = Iterator[Finding]
_LISTED = 4


def error(message: str, fix: str, expert: str | None = None, *, final: bool = False) -> Finding:
    """A reason not to merge; ``final`` where nothing right could be computed, so that no
    ``ignore:`` may soften it."""
    return Finding(code="", severity="error", message=message, fix=fix, expert=expert, final=final)


def warning(message: str, fix: str, expert: str | None = None) -> Finding:
    """What may spoil a merge."""
    return Finding(code="", severity="warning", message=message, fix=fix, expert=expert)


def note(message: str, fix: str) -> Finding:
    """What is good to know."""
    return Finding(code="", severity="note", message=message, fix=fix)


def grouped(pool: Pool, findings: Findings) -> Findings:
    """What is said of several experts in the same words, told once; errors before warnings."""
    groups: dict[Finding, list[str]] = {}
    for finding in findings:
        groups.setdefault(replace(finding, expert=None), []).append(finding.expert or "")
    for finding in sorted(groups, key=lambda one: one.severity != "error"):
        if len(names := groups[finding]) == 1:
            yield replace(finding, expert=names[0])
        else:
            said = f"{listed(names, len(pool.experts))}: {finding.message}"
            yield replace(finding, message=said)


def listed(names: Sequence[str], total: int | None = None) -> str:
    """Names in a row: ``a, b, c, d and 60 more``, or ``all 64 experts``."""
    if len(names) == total and total > _LISTED:
        return f"all {total} experts"
    if len(names) > _LISTED + 1:
        return f"{', '.join(names[:_LISTED])} and {len(names) - _LISTED} more"
    return ", ".join(names)
