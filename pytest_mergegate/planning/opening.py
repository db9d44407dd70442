"""A gate as far as its hidden states, from which everything is planned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_mergegate.engine.executors import LocalExecutor
from pytest_mergegate.engine.task_vectors import TaskVectors
from pytest_mergegate.engine.workspace import Workspace
from pytest_mergegate.errors import GateError
from pytest_mergegate.judge import PER_METHOD
from pytest_mergegate.merging.methods import plan_methods
from pytest_mergegate.planning.standing import RATIOS, refuse_increases
from pytest_mergegate.stages.hidden import run_hidden
from pytest_mergegate.stages.kept_conflicts import find_conflicts
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_mergegate.engine.cache import Cache
    from pytest_mergegate.findings import Finding
    from pytest_mergegate.gatefile import Gate
    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.stages.conflict import ConflictResult
    from pytest_mergegate.stages.hidden import HiddenResult


class UnsoundPool(GateError):
    """A pool in which the preflight stage finds an error."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        self.findings = tuple(f for f in findings if f.severity == "error")
        super().__init__("\n".join(map(str, self.findings)))


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A pool with its hidden states."""

    pool: Pool
    workspace: Workspace
    hidden: HiddenResult
    conflict: ConflictResult | None
    warnings: tuple[Finding, ...]


def open_gate(
    gate: Gate, *, device: str, cache: Cache, tell: Callable[[str, float], None]
) -> Opened:
    """Read the pool and its states. Raises GateError, UnsoundPool for what preflight finds."""
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
    return _Opening(gate, preflight.pool, preflight.findings, device, cache, tell).opened()


class _Opening:
    def __init__(
        self,
        gate: Gate,
        pool: Pool,
        findings: tuple[Finding, ...],
        device: str,
        cache: Cache,
        tell: Callable[[str, float], None],
    ) -> None:
        self._gate, self._pool, self._findings = gate, pool, findings
        self._device, self._cache, self._tell = device, cache, tell

    def opened(self) -> Opened:
        gate, pool = self._gate, self._pool
        plan_methods(gate, pool.names)  # a typo fails at once
        limits = set(gate.spec.effective_budget.limits)
        pool.base.start_hashing()
        workspace = Workspace(
            pool,
            gate.spec,
            device=self._device,
            cache=self._cache,
            vectors=lambda: self._vectors,
        )
        conflict = self._conflict() if limits & set(RATIOS) else None
        if limits & PER_METHOD and not workspace.facts.has_head:
            workspace.engine.require_head()
        ahead = gate.spec.certificate.per_task if workspace.facts.has_head else 0
        hidden = run_hidden(
            workspace,
            LocalExecutor(),
            gate.spec,
            lambda _: (),
            lambda f: self._tell("hidden states", f),
            ahead=ahead,
        )
        pool.wait_for_hashes(base=True)
        return Opened(
            pool=pool,
            workspace=workspace,
            hidden=hidden,
            conflict=conflict,
            warnings=tuple(f for f in self._findings if f.severity == "warning"),
        )

    @cached_property
    def _vectors(self) -> TaskVectors:
        return TaskVectors(self._pool)

    def _conflict(self) -> ConflictResult:
        return find_conflicts(
            self._pool,
            self._cache,
            self._dense,
            lambda f: self._tell("conflict", f),
            self._device,
        )

    def _dense(self, expert: str, parameter: str) -> Any:
        delta = self._vectors.delta(expert, parameter)
        assert delta is not None
        return delta.numpy()
