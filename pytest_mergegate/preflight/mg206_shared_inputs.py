"""MG206: inputs that several tasks share, and may want different answers to."""

from collections.abc import Iterable

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import listed, warning

_SHOWN = 3
_TORN = "tell the tasks apart in the input, or do not merge them: no model can answer both"


def find(pool: Pool) -> Iterable[Finding]:
    """One merged model gives one answer to one input."""
    targets: dict[object, dict[str, set[str | None]]] = {}
    for name, examples in pool.examples.items():
        for example in examples:
            asked = targets.setdefault(example.question, {})
            asked.setdefault(name, set()).add(example.target)
    agreeing: dict[tuple[str, ...], int] = {}
    torn: dict[tuple[str, ...], int] = {}
    for asked in targets.values():
        if len(asked) > 1:
            wanted = {target for found in asked.values() for target in found if target is not None}
            kind = torn if len(wanted) > 1 else agreeing
            kind[tuple(asked)] = kind.get(tuple(asked), 0) + 1
    for kind, what, fix in (
        (torn, "with different targets: the tasks contradict each other", _TORN),
        (agreeing, "", "give each task inputs of its own"),
    ):
        if kind:
            yield warning(f"inputs are shared{' ' * bool(what)}{what} ({_groups(kind)})", fix)


def _groups(kind: dict[tuple[str, ...], int]) -> str:
    ranked = sorted(kind.items(), key=lambda item: -item[1])
    said = [f"{listed(names)}: {count}" for names, count in ranked[:_SHOWN]]
    more = [f"{len(ranked) - _SHOWN} more groups"] if len(ranked) > _SHOWN else []
    return "; ".join([*said, *more])
