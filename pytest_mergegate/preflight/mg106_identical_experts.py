"""MG106: two experts with the same content: the merge would count one of them twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.pool.pool import Pool


def identical_experts(pool: Pool) -> Iterable[Finding]:
    """Compare weights and scales; a touched configuration does not make another expert."""
    first: dict[tuple[str, tuple[float, ...]], str] = {}
    for expert in pool.experts:
        scales = tuple(module.scale for module in expert.modules.values())
        other = first.setdefault((expert.weights_fingerprint, scales), expert.name)
        if other != expert.name:
            yield Finding(
                code="MG106",
                severity="error",
                expert=expert.name,
                message=f"has the same content as expert {other!r}",
                fix="remove one of the two, or correct the path that was copied",
            )
