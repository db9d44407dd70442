"""The rules of the first stage, one file per coded finding; headers and numpy, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.preflight.mg101_base_mismatch import base_mismatch
from pytest_mergegate.preflight.mg102_unknown_tensors import unknown_tensors
from pytest_mergegate.preflight.mg103_missing_tensors import missing_tensors
from pytest_mergegate.preflight.mg104_shape_mismatch import shape_mismatch
from pytest_mergegate.preflight.mg105_non_finite import non_finite
from pytest_mergegate.preflight.mg106_identical_experts import identical_experts
from pytest_mergegate.preflight.mg107_no_op_adapter import no_op_adapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_mergegate.findings import Finding
    from pytest_mergegate.pool.pool import Pool

RULES: tuple[Callable[[Pool], Iterable[Finding]], ...] = (
    base_mismatch,
    unknown_tensors,
    missing_tensors,
    shape_mismatch,
    non_finite,
    identical_experts,
    no_op_adapter,
)
