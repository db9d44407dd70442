"""Parameter conflicts the slow way: whole task vectors in float64, one pair after the other."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.metrics import ParameterConflicts, parameter_conflicts

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_mergegate.engine.weights.task_vectors import TaskVectors


def dense_of(vectors: TaskVectors) -> Callable[[str, str], Any]:
    """What the conflict stage asks for τ that only a library can work out."""

    def dense(name: str, parameter: str) -> Any:
        delta = vectors.delta(name, parameter)
        assert delta is not None
        return delta.numpy()

    return dense


def naive_conflicts(vectors: TaskVectors) -> dict[tuple[str, str], ParameterConflicts]:
    """Every pair's ratios, over the parameters that one of the two may change."""
    found = {}
    for a, b in combinations(vectors.names, 2):
        tensors: tuple[list[Any], list[Any]] = ([], [])
        for parameter in vectors.parameters(a, b):
            deltas = [vectors.delta(name, parameter) for name in (a, b)]
            shape = next(delta.shape for delta in deltas if delta is not None)
            for side, delta in zip(tensors, deltas, strict=True):
                side.append(np.zeros(shape) if delta is None else delta.double().numpy())
        found[a, b] = parameter_conflicts(*tensors)
    return found
