"""MG105: NaN or infinity in an expert (mergekit writes it to the merge without a word)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.findings import Finding
from pytest_mergegate.pool.regular_files import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.pool.pool import Pool


def non_finite(pool: Pool) -> Iterable[Finding]:
    """Every stored number must be finite, and so must what they amount to."""
    for expert in pool.experts:
        statistics = pool.statistics[expert.name]
        if statistics.overflowing:
            yield Finding(
                code="MG105",
                severity="error",
                final=True,
                expert=expert.name,
                message=f"the change of {shown(min(statistics.overflowing))!r} overflows float32, "
                "though its tensors are finite",
                fix="check lora_alpha and r in adapter_config.json, or use an earlier checkpoint",
            )
        if bad := statistics.non_finite:
            name = min(bad)
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            yield Finding(
                code="MG105",
                severity="error",
                final=True,
                expert=expert.name,
                message=f"{shown(expert.tensors.file_of(name).name)}: tensor {shown(name)!r} "
                f"holds NaN or infinity{more}",
                fix="the training diverged or the file is damaged; use an earlier checkpoint",
            )
