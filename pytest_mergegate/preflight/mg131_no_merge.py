"""MG131: a finished merge that is the base, or the folder of a model that goes into it."""

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, error, warning

_FIX = (
    "merge and save again, load what was written, and compare one such tensor: the adapter was not "
    "loaded, its weights were not merged, or the change was lost in rounding"
)


def find(pool: Pool) -> Findings:
    """What experts change must be changed: compared tensor by tensor, in the merge's precision."""
    merged = pool.merged
    if merged is None or merged.tensors is None:
        return
    changed = changed_parameters(pool) & merged.tensors.keys()
    same = sorted(name for name in changed if merged.holds_base_weight(pool.base, name))
    if not same:
        return
    if len(same) == len(changed):
        said = f"the finished merge is the base: all {len(same)} tensors that experts change are "
        yield error(f"{said}the base's own, such as {shown(same[0])!r}", _FIX)
    else:
        said = f"{len(same)} of the {len(changed)} tensors that experts change are the base's own "
        yield warning(f"{said}in the finished merge, such as {shown(same[0])!r}", _FIX)


def changed_parameters(pool: Pool) -> set[str]:
    """Stored parameters of the base that some expert changes, as far as that is known."""
    found: set[str] = set()
    for expert in pool.experts:
        found |= set(expert.changes) - pool.statistics[expert.name].unchanged
    return {name for name in found if pool.base.tensors.is_float(name)}
