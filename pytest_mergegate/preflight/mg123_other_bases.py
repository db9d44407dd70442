"""MG123: a mergekit configuration that puts an adapter on another base than the gate's."""

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.identity import identify
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, error, warning


def find(pool: Pool) -> Findings:
    """``other+adapter`` is to mergekit the adapter in ``other``, and to the gate in its base: the
    same only where both are the same weights."""
    if pool.mergekit is None:
        return
    base = pool.base
    for expert in pool.experts:
        other = pool.mergekit.other_bases.get(expert.name)
        if other is None or (found := identify(other, base, expert.path)) == "same":
            continue
        written = pool.mergekit.written[expert.name]
        named = f"{shown(written)}: mergekit puts this adapter into that base"
        fix = f"write {base.reference}+{shown(expert.reference)}"
        if found == "other":
            yield error(
                f"{named}, whose weights are at hand and are not those of {base.reference!r}",
                f"{fix}, where that is meant; else merge the adapter into its base, and list the "
                "folder",
                expert.name,
            )
        else:
            yield warning(
                f"{named}, the gate into {base.reference!r}: nothing shows that they are the same "
                "weights, since a name alone proves nothing",
                fix,
                expert.name,
            )
