"""Models of a pool for the user's own hands: one merged, or one expert."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.merging.merge import merge
from pytest_mergegate.merging.methods import plan_methods
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.merging.merge import Merged
    from pytest_mergegate.merging.method import JudgedMerge


def build_merged_model(gate: Gate, judged: JudgedMerge | None, device: str) -> Any:
    """The merge that was ``judged``, bit for bit, as a transformers model of its own.

    Without one it is the gate's first method. Raises GateError, also where the merge has become
    another one since.
    """
    engine = read_engine(gate, device)
    merged = merge_again(gate, engine, judged)
    module = _with_weights(engine, merged.weights)
    check_judged(merged, judged)
    return module


def merge_again(gate: Gate, engine: Engine, judged: JudgedMerge | None) -> Merged:
    """The merge that was ``judged``, or without one the gate's first method. Raises GateError."""
    planned = {m.label: m for m in plan_methods(gate, engine.pool.names)}
    if judged is None:
        return merge(next(iter(planned.values())), engine)
    # the report's weights: under `weights: optimal` no gate file knows them
    return merge(replace(planned[judged.method], weights=dict(judged.weights)), engine)


def check_judged(merged: Merged, judged: JudgedMerge | None) -> None:
    """Raise GateError where the merge, all of it asked for, has become another one since."""
    if judged is not None and merged.digest != judged.digest:
        raise GateError(
            f"merged again, {judged.method} gives other weights than those that were judged",
            fix="run the gate again with --mergegate-no-cache; files may have changed meanwhile",
        )


def build_expert_model(gate: Gate, name: str, device: str) -> Any:
    """The base with expert ``name``'s task vector added. Raises GateError."""
    if name not in gate.spec.experts:
        raise GateError(
            f"the pool has no expert {name!r}", fix=f"its experts: {', '.join(gate.spec.experts)}"
        )
    engine = read_engine(gate, device)
    return _with_weights(engine, engine.expert_weights(name))


def read_engine(gate: Gate, device: str) -> Engine:
    """The gate's pool, loaded, and all of it in memory. Raises GateError."""
    pool, errors = read_pool(gate)
    if pool is None:
        raise errors[0]
    engine = Engine(pool, gate.spec, device)
    if engine.model.is_streamed:
        raise GateError(
            "the base is larger than the memory that the process may use",
            fix="give it more, or choose dtype: bfloat16",
        )
    return engine


def _with_weights(engine: Engine, weights: Mapping[str, Tensor]) -> Any:
    for parameter, weight in weights.items():
        held = engine.model.parameters[parameter]
        held.data = weight.to(held.device, held.dtype)
    return engine.model.module
