"""MG105: NaN or infinity in an adapter (mergekit writes it to the merge without a word)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.pool.pool import Pool


def non_finite(pool: Pool) -> Iterable[Finding]:
    """Every stored number must be finite."""
    for expert in pool.experts:
        if expert.scan.non_finite:
            name = min(expert.scan.non_finite)
            yield Finding(
                code="MG105",
                severity="error",
                expert=expert.name,
                message=f"{expert.weights_file.name}: tensor {name!r} holds NaN or infinity",
                fix="the training diverged or the file is damaged; use an earlier checkpoint",
            )
