"""MG106: two experts with the same content: the merge would count one of them twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.findings import Finding
from pytest_mergegate.pool.changes import Computed, Factors, Offset

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.pool.experts import Expert
    from pytest_mergegate.pool.pool import Pool


def identical_experts(pool: Pool) -> Iterable[Finding]:
    """Compare weights and scales; a touched configuration does not make another expert."""
    alike: dict[tuple[object, ...], list[Expert]] = {}
    for expert in pool.experts:
        # hashes may take long, and differ where sizes or norms do
        norms = frozenset(pool.statistics[expert.name].norms.items())
        sizes = tuple(sorted((name, h.shape) for name, h in expert.tensors.items()))
        alike.setdefault((expert.kind, norms, sizes, *_scales(expert)), []).append(expert)
    for group in alike.values():
        first: dict[str, str] = {}
        for expert in group if len(group) > 1 else ():
            other = first.setdefault(expert.weights_fingerprint, expert.name)
            if other != expert.name:
                yield Finding(
                    code="MG106",
                    severity="error",
                    expert=expert.name,
                    message=f"has the same weights as expert {other!r}",
                    fix="remove one of the two, or correct the path that was copied",
                )


def _scales(expert: Expert) -> Iterable[object]:
    """What else the size of the change depends on."""
    for parameter, change in sorted(expert.changes.items()):
        if isinstance(change, (Factors, Offset)):
            yield parameter, change.scale
    if any(isinstance(change, Computed) for change in expert.changes.values()):
        for setting, value in sorted(expert.config.items()):
            if type(value) in (int, float) and "dropout" not in setting:
                yield setting, value
