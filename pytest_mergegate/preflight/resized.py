"""Embeddings with another number of rows than the base's."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from pytest_mergegate.pool.base import OUTPUT_WEIGHTS
from pytest_mergegate.pool.changes import Factors, Replacement

if TYPE_CHECKING:
    from pytest_mergegate.pool.base import Base
    from pytest_mergegate.pool.changes import Change


def is_resized(change: Change, base: Base) -> TypeGuard[Factors | Replacement]:
    """Whether a change of an embedding or an output layer is for another vocabulary."""
    header = base.tensors.get(change.parameter)
    if header is None or not isinstance(change, (Factors, Replacement)):
        return False
    if len(change.shape) != 2 or change.shape[1:] != header.shape[1:]:
        return False
    if change.shape == header.shape:
        return False
    return change.parameter == base.embedding or change.parameter.endswith(OUTPUT_WEIGHTS)
