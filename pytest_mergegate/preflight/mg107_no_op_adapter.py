"""MG107: an adapter that changes nothing, and so agrees with every merge that ignores it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.pool.pool import Pool


def no_op_adapter(pool: Pool) -> Iterable[Finding]:
    """Every product s·B·A is zero, as in an adapter that was saved before its first step."""
    for expert in pool.experts:
        zero, modules = expert.scan.zero, expert.modules.values()
        if all(m.key_a in zero or m.key_b in zero or m.scale == 0 for m in modules):
            yield Finding(
                code="MG107",
                severity="error",
                expert=expert.name,
                message="the adapter changes nothing: all of its products B·A are zero",
                fix="it was saved untrained, or its tensors were lost; save it again",
            )
