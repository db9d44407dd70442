"""Full checkpoints as experts: every parameter they store takes the place of the base's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.pool.changes import Replacement

if TYPE_CHECKING:
    from pytest_mergegate.pool.base import Base
    from pytest_mergegate.pool.stored import StoredTensors

_BUFFERS = ("final_logits_bias",)


def named_as(base: Base | None, tensors: StoredTensors) -> StoredTensors:
    """The checkpoint's tensors under the base's names.

    The same model is stored with and without the prefix that a class with a head adds
    (``transformer.h.0`` or ``h.0``).
    """
    if base is None or any(name in base.tensors for name in tensors):
        return tensors
    prefixes = {name.split(".")[0] + "." for name in base.tensors}
    for prefix in sorted(prefixes):
        if any(prefix + name in base.tensors for name in tensors):
            return _prefixed(tensors, prefix, base)
    stripped = tensors.renamed(lambda n: n.partition(".")[2] or n)
    return stripped if any(name in base.tensors for name in stripped) else tensors


def _prefixed(tensors: StoredTensors, prefix: str, base: Base) -> StoredTensors:
    return tensors.renamed(lambda name: name if name in base.tensors else prefix + name)


def checkpoint_changes(tensors: StoredTensors, base: Base | None) -> dict[str, Replacement]:
    """One replacement per parameter; buffers, and copies of a tied embedding, are none."""
    changes = {}
    for name, header in tensors.items():
        parameter = base.parameter(name) if base else name
        if not header.is_float or (parameter != name and parameter in tensors):
            continue
        if name in _BUFFERS and base is not None and _equal(name, tensors, base):
            continue
        changes[parameter] = Replacement(parameter=parameter, key=name, shape=header.shape)
    return changes


def _equal(name: str, tensors: StoredTensors, base: Base) -> bool:
    return name in base.tensors and bool(
        np.array_equal(tensors.floats(name), base.tensors.floats(name))
    )
