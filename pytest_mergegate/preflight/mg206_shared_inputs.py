"""MG206: inputs that several tasks share, and may want different answers to."""

from collections import Counter, defaultdict

from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, listed, warning

_SHOWN = 3


def find(pool: Pool) -> Findings:
    """One merged model gives one answer to one input."""
    targets: defaultdict[object, dict[str, set[str]]] = defaultdict(dict)
    for name, examples in pool.examples.items():
        for example in examples:
            targets[example.question][name] = {*example.references}
    agreeing: Counter[tuple[str, ...]] = Counter()
    torn: Counter[tuple[str, ...]] = Counter()
    for asked in targets.values():
        if len(asked) > 1:
            wanted = [references for references in asked.values() if references]
            suits_all = not wanted or set.intersection(*wanted)
            (agreeing if suits_all else torn)[tuple(asked)] += 1
    if torn:
        yield warning(
            "inputs are shared with different targets: the tasks contradict each other "
            f"({_groups(torn)})",
            "tell the tasks apart in the input, or do not merge them: no model can answer both",
        )
    if agreeing:
        yield warning(
            f"inputs are shared ({_groups(agreeing)})", "give each task inputs of its own"
        )


def _groups(kind: Counter[tuple[str, ...]]) -> str:
    said = [f"{listed(names)}: {count}" for names, count in kind.most_common(_SHOWN)]
    more = [f"{len(kind) - _SHOWN} more groups"] if len(kind) > _SHOWN else []
    return "; ".join([*said, *more])
