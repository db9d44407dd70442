"""What rules say: findings without their code, and those that several experts share, told once."""

from collections.abc import Iterator, Mapping, Sequence

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.statuses import Severity
from pytest_mergegate.pool.pool import Pool

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


def grouped(
    pool: Pool, severity: Severity, said: Mapping[str, tuple[str, str]]
) -> Iterator[Finding]:
    """One finding for each distinct (message, fix), whichever experts it is said of."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, told in said.items():
        groups.setdefault(told, []).append(name)
    for (message, fix), names in groups.items():
        alone = len(names) == 1
        yield Finding(
            code="",
            severity=severity,
            expert=names[0] if alone else None,
            message=message if alone else f"{listed(names, len(pool.experts))}: {message}",
            fix=fix,
        )


def listed(names: Sequence[str], total: int | None = None) -> str:
    """Names in a row: ``a, b, c, d and 60 more``, or ``all 64 experts``."""
    if len(names) == total and total > _LISTED:
        return f"all {total} experts"
    if len(names) > _LISTED + 1:
        return f"{', '.join(names[:_LISTED])} and {len(names) - _LISTED} more"
    return ", ".join(names)
