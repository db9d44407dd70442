"""Stage 1: does everything load, and does it belong together? Headers and numpy only."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.findings import Finding
from pytest_mergegate.engine.running.workspace import own_code
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.merge_methods import is_function
from pytest_mergegate.merging.method import Method
from pytest_mergegate.pool.pool import Pool, read_pool
from pytest_mergegate.pool.statistics import weight_statistics
from pytest_mergegate.preflight import RULES
from pytest_mergegate.preflight.runnable import unrunnable
from pytest_mergegate.stages.context import Context, Results

_OF_AN_ADAPTER = frozenset(("MG101", "MG102", "MG103", "MG104", "MG105", "MG107", "MG110", "MG111"))


class UnsoundPool(GateError):
    """A pool that cannot be gated: ``findings`` is all that there is to say of it."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(self._lines))

    def __str__(self) -> str:
        return "\n".join(self._lines)

    @property
    def _lines(self) -> list[str]:
        return [str(f) for f in self.findings if f.severity == "error"]


@dataclass(frozen=True, kw_only=True)
class PreflightResult:
    """What was read, and what is wrong with it."""

    pool: Pool | None
    """None where something could not be read."""
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether the next stages have something sound to work on."""
        return self.pool is not None and not any(f.severity == "error" for f in self.findings)


def run(context: Context, earlier: Results) -> Iterator[Results]:
    """Raises UnsoundPool; and GateError for a method that mergekit does not know, and a comparison
    that cannot be made, before anything is computed in vain."""
    findings = _inspect(earlier.pool, context.gate)
    if context.options.stage != "conflict":  # which looks at weights, whatever the budgets ask
        findings += tuple(unrunnable(earlier.pool))
    if any(finding.severity == "error" for finding in findings):
        raise UnsoundPool(findings)
    yield (earlier := replace(earlier, findings=findings))
    if context.reaches("hidden"):
        context.check_comparisons()
        if context.pool.merged is None:
            yield replace(earlier, methods=_planned(context))


def run_preflight(gate: Gate) -> PreflightResult:
    """Read the pool and apply every rule; all findings at once."""
    pool, errors = read_pool(gate)
    findings = _inspect(pool, gate) if pool is not None else tuple(map(Finding.of, errors))
    return PreflightResult(pool=pool, findings=findings)


def load_pool(gate: Gate) -> Pool:
    """What the gate names. Raises UnsoundPool with everything that cannot be read."""
    pool, errors = read_pool(gate)
    if pool is None:
        raise UnsoundPool(map(Finding.of, errors))
    return pool


def _inspect(pool: Pool, gate: Gate) -> tuple[Finding, ...]:
    rules = [rule for rule in RULES if pool.merged is None or not rule.about_making]
    found = [finding for rule in rules for finding in rule.apply(pool)]
    return tuple(_softened(finding, gate) for finding in (*found, *_finished_adapter(pool)))


def _finished_adapter(pool: Pool) -> Iterator[Finding]:
    """A finished merge that is an adapter is held to what every adapter is held to."""
    adapter = None if pool.merged is None else pool.merged.adapter
    if adapter is None:
        return
    statistics = {adapter.name: weight_statistics(adapter, pool.base)}
    alone = replace(pool, experts=(adapter,), statistics=statistics, merged=None)
    for rule in (rule for rule in RULES if rule.code in _OF_AN_ADAPTER):
        for finding in rule.apply(alone):
            if finding.expert == adapter.name:
                said = f"the finished merge: {finding.message}"
                yield replace(finding, expert=None, message=said)


def _softened(finding: Finding, gate: Gate) -> Finding:
    """A finding that the gate file ignores becomes a warning with the reason given there."""
    reason = gate.spec.ignore.get(finding.code)
    if reason is None:
        return finding
    if finding.final:
        return replace(finding, fix=f"{finding.fix}; {finding.code} cannot be ignored here")
    return replace(finding, severity="warning", fix=f"ignored by the gate file: {reason}")


def _planned(context: Context) -> tuple[Method, ...]:
    """The gate's methods, held against mergekit, which is imported once for all runs."""
    gate, names = context.gate, context.pool.names

    def plan() -> tuple[Method, ...]:
        with context.clock.timed("load"):
            from pytest_mergegate.merging.gate_methods import plan_methods

        return plan_methods(gate, names)

    key = {
        "kind": "methods",
        "code": own_code(),
        "mergekit's": version("mergekit"),
        "merge": gate.spec.merge.model_dump(mode="json"),
        "mergekit": gate.mergekit and dict(gate.mergekit.config),
        "names": names,
    }
    if any(is_function(method.method) for method in gate.spec.merge.methods):
        return plan()  # whose code may have changed
    return context.cache.kept(tuple[Method, ...], key, plan)
