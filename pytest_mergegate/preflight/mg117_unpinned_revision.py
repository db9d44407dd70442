"""MG117: in CI, a reference to the hub that may be another model tomorrow."""

from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.references import Located, in_ci
from pytest_mergegate.preflight.told import Findings, warning


def find(pool: Pool) -> Findings:
    """A gate that passed must pass again on the same commit of the gate file."""
    if not in_ci():
        return
    located: list[tuple[str | None, Located]] = [(None, pool.base.located)]
    located += [(expert.name, expert.located) for expert in pool.experts]
    if pool.merged is not None:
        located.append((None, pool.merged.located))
    for name, place in located:
        if not place.pinned:
            commit = place.commit or "<commit>"
            called = "the base " if place is pool.base.located else "the finished merge "
            yield warning(
                f"{'' if name else called}{place.repository} at "
                f"{place.revision or 'its default branch'} can change between two runs",
                f"write {place.repository}@{commit}",
                name,
            )
