"""MG104: changes whose shape is not that of the base's parameter."""

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.adapters import ZERO3
from pytest_mergegate.pool.changes import Change, Computed, Factors, Rows
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, error


def find(pool: Pool) -> Findings:
    """A change must fit the weight that it is added to; resized embeddings are MG110's."""
    for expert in pool.experts:
        wrong = [
            (said, change)
            for parameter, change in expert.changes.items()
            if parameter in pool.base.tensors
            and not pool.base.is_resized_by(change)
            and (said := _mismatch(change, pool.base.tensors[parameter].shape)) is not None
        ]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            first, change = wrong[0]
            empty = any(expert.tensors[key].size == 0 for key in change.keys)
            fix = ZERO3 if empty else "gate against the base it was trained on"
            yield error(first + more, fix, expert.name, final=True)


def _mismatch(change: Change, shape: tuple[int, ...]) -> str | None:
    called, base = repr(shown(change.parameter)), f"the base's weight {list(shape)}"
    match change:
        case Computed():
            return None
        case Rows() if len(shape) != 2 or change.width != shape[1]:
            return f"{called}: rows of {change.width} numbers, {base}"
        case Rows():
            beyond = max(change.rows, default=0)
            return None if beyond < shape[0] else f"{called}: row {beyond} is changed, {base}"
        case Factors() if change.shape != shape:
            return f"{called}: B·A is {list(change.shape)}, {base}"
        case _ if change.shape != shape:
            return f"{called} is {list(change.shape)}, {base}"
    return None
