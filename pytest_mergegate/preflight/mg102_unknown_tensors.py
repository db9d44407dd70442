"""MG102: tensors of an adapter that match nothing in the base (PEFT drops them silently)."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pytest_mergegate.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.pool.pool import Pool


def unknown_tensors(pool: Pool) -> Iterable[Finding]:
    """Every adapted module must be a module of the base."""
    for expert in pool.experts:
        unknown = [p for p in expert.modules if p not in pool.base.tensors]
        if unknown:
            module = expert.modules[unknown[0]].module
            close = difflib.get_close_matches(unknown[0], list(pool.base.tensors), n=1)
            hint = f"; the base has {close[0].removesuffix('.weight')!r}" if close else ""
            yield Finding(
                code="MG102",
                severity="error",
                expert=expert.name,
                message=f"{len(unknown)} of {len(expert.modules)} adapted modules match nothing "
                f"in the base, first {module!r}{hint}",
                fix="gate against the base it was trained on, or restore the tensor names",
            )
