"""Models of a pool for the user's own hands: one merged, or one expert."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_mergegate.engine.engine import Engine
from pytest_mergegate.errors import GateError
from pytest_mergegate.merging.merge import merge
from pytest_mergegate.merging.methods import plan_methods
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pytest_mergegate.gatefile import Gate
    from pytest_mergegate.merging.method import Method


def build_merged_model(
    gate: Gate, method: str | None, weights: Mapping[str, float] | None, device: str
) -> Any:
    """The merge that a report calls ``method``, as a transformers model of its own.

    ``weights`` are those of the report, which under ``weights: optimal`` no gate file knows;
    without ``method`` it is the gate's first. Raises GateError.
    """
    engine = read_engine(gate, device)
    chosen = pick_method(gate, engine, method, weights)
    return _with_weights(engine, merge(chosen, engine).weights)


def pick_method(
    gate: Gate, engine: Engine, method: str | None, weights: Mapping[str, float] | None
) -> Method:
    """The gate's method of that label, else its first, with the weights of a report."""
    planned = {m.label: m for m in plan_methods(gate, engine.pool.names)}
    chosen = planned[method] if method else next(iter(planned.values()))
    return replace(chosen, weights=dict(weights)) if weights else chosen


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
