"""MG117: in CI, a reference to the hub that may be another model tomorrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.pool.references import in_ci

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.pool.references import Located


def unpinned_revision(pool: Pool) -> Iterable[Finding]:
    """A gate that passed must pass again on the same commit of the gate file."""
    if not in_ci():
        return
    located: list[tuple[str | None, Located]] = [(None, pool.base.located)]
    located += [(expert.name, expert.located) for expert in pool.experts]
    for name, place in located:
        if not place.pinned:
            commit = place.commit or "<commit>"
            yield Finding(
                code="MG117",
                severity="warning",
                expert=name,
                message=f"{'' if name else 'the base '}{place.repository} at "
                f"{place.revision or 'its default branch'} can change between two runs",
                fix=f"write {place.repository}@{commit}",
            )
