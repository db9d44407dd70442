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
    for name, place in located:
        if not place.pinned:
            commit = place.commit or "<commit>"
            yield warning(
                f"{'' if name else 'the base '}{place.repository} at "
                f"{place.revision or 'its default branch'} can change between two runs",
                f"write {place.repository}@{commit}",
                name,
            )
