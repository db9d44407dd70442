"""MG101: an expert says it was trained on another base."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from pytest_mergegate.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.pool.pool import Pool


def base_mismatch(pool: Pool) -> Iterable[Finding]:
    """Compare the last part of the names: folders move, but a model keeps its name."""
    names = {_last(pool.base.reference), _last(str(pool.base.path))}
    if pool.base.original_name:
        names.add(_last(pool.base.original_name))
    for expert in pool.experts:
        trained_on = expert.base_reference
        if trained_on is not None and _last(trained_on) not in names:
            yield Finding(
                code="MG101",
                severity="error",
                expert=expert.name,
                message=f"the adapter was trained on {trained_on!r}, "
                f"the gate's base is {pool.base.reference!r}",
                fix="correct base: in the gate file, or, where both are the same weights under "
                "two names, say so: `ignore: {MG101: <why>}`",
            )


def _last(reference: str) -> str:
    without_revision = reference if PurePath(reference).is_absolute() else reference.split("@")[0]
    return PurePath(without_revision.rstrip("/\\").replace("\\", "/")).name.lower()
