"""MG104: factors whose product has another shape than the base's parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.pool.pool import Pool


def shape_mismatch(pool: Pool) -> Iterable[Finding]:
    """B @ A must have the shape of the weight that it is added to."""
    for expert in pool.experts:
        for parameter, module in expert.modules.items():
            header = pool.base.tensors.get(parameter)
            delta = (module.shape_b[0], module.shape_a[1])
            if header is not None and header.shape != delta:
                yield Finding(
                    code="MG104",
                    severity="error",
                    expert=expert.name,
                    message=f"{module.module!r}: B·A is {list(delta)}, "
                    f"the base's weight {list(header.shape)}",
                    fix="gate against the base it was trained on",
                )
                break
