"""A gate as far as its hidden states, from which everything is planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.common.clock import Clock
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.gate.options import Options
from pytest_mergegate.merging.methods import plan_methods
from pytest_mergegate.planning.standing import RATIOS, refuse_increases
from pytest_mergegate.stages import pipeline
from pytest_mergegate.stages.context import Context
from pytest_mergegate.stages.preflight import UnsoundPool, run_preflight
from pytest_mergegate.verdict.automatic import with_known_limits
from pytest_mergegate.verdict.decisions import Decisions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_mergegate.common.findings import Finding
    from pytest_mergegate.engine.running.cache import Cache
    from pytest_mergegate.engine.running.workspace import Workspace
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.history.calibration.observations import Observation
    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.stages.conflict import ConflictResult
    from pytest_mergegate.stages.hidden import HiddenResult


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A pool with its hidden states."""

    gate: Gate
    """With all its limits as numbers."""
    pool: Pool
    workspace: Workspace
    hidden: HiddenResult
    conflict: ConflictResult | None
    warnings: tuple[Finding, ...]


def open_gate(
    gate: Gate,
    *,
    device: str,
    cache: Cache,
    tell: Callable[[str, float], None],
    past: Callable[[], Sequence[Observation]] = tuple,
) -> Opened:
    """Read the pool and its states; ``past`` gives recorded merges, where a limit is ``auto@RATE``.

    Raises GateError, UnsoundPool for what preflight finds.
    """
    refuse_increases(gate.spec)
    if gate.mergekit is not None and gate.mergekit.why_official is not None:
        raise GateError(
            f"a merge cannot be planned for this mergekit configuration: "
            f"{gate.mergekit.why_official}",
            where=gate.name,
            fix="plan with a gate file, or a configuration of whole models and plain weights",
        )
    preflight = run_preflight(gate)
    if not preflight.ok or preflight.pool is None:
        raise UnsoundPool(preflight.findings)
    pool = preflight.pool
    gate = with_known_limits(gate, pool, past)
    plan_methods(gate, pool.names)  # a typo fails at once
    decisions = Decisions(gate.spec, pool)
    options = Options(device=device, progress=tell)
    context = Context(gate, pool, options, cache, Clock(), lambda: decisions)
    results = pipeline.read_states(context, conflicts=bool(set(decisions.limits) & set(RATIOS)))
    pool.wait_for_hashes(base=True)
    assert results.hidden is not None
    return Opened(
        gate=gate,
        pool=pool,
        workspace=context.workspace,
        hidden=results.hidden,
        conflict=results.conflict,
        warnings=tuple(f for f in preflight.findings if f.severity == "warning"),
    )
