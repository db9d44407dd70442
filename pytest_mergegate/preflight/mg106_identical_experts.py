"""MG106: two experts with the same content: the merge would count one of them twice."""

import math
from collections.abc import Iterable

from pytest_mergegate.pool.changes import Computed, ExpertFactors, Factors, Offset
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, error

ABOUT_MAKING = True


def find(pool: Pool) -> Findings:
    """Compare weights and scales; a touched configuration does not make another expert."""
    alike: dict[tuple[object, ...], list[Expert]] = {}
    for expert in pool.experts:
        sizes = tuple(sorted((name, h.shape) for name, h in expert.tensors.items()))
        alike.setdefault((expert.kind, sizes, *_scales(expert)), []).append(expert)
    for group in alike.values():
        first: dict[str, str] = {}
        for expert in (one for one in group if _has_a_double(one, group, pool)):
            other = first.setdefault(expert.weights_fingerprint, expert.name)
            if other != expert.name:
                fix = "remove one of the two, or correct the path that was copied"
                yield error(f"has the same weights as expert {other!r}", fix, expert.name)


def _has_a_double(one: Expert, group: list[Expert], pool: Pool) -> bool:
    """Whether another has the same norms except for round-off; only then are hashes waited for."""
    own = pool.statistics[one.name].norms
    return any(
        all(_are_close(norm, own.get(name)) for name, norm in pool.statistics[e.name].norms.items())
        for e in group
        if e is not one
    )


def _are_close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-6)


def _scales(expert: Expert) -> Iterable[object]:
    """What else the size of the change depends on."""
    for parameter, change in sorted(expert.changes.items()):
        if isinstance(change, (Factors, Offset)):
            yield parameter, change.scale
        if isinstance(change, ExpertFactors):
            yield from ((parameter, block.scale) for block in change.blocks)
    if any(isinstance(change, Computed) for change in expert.changes.values()):
        for setting, value in sorted(expert.config.items()):
            if type(value) in (int, float) and "dropout" not in setting:
                yield setting, value
