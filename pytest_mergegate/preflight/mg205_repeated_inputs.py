"""MG205: the same input twice among one expert's examples."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

from pytest_mergegate.pool.examples import Example
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.heads import task_of
from pytest_mergegate.preflight.told import Findings, warning

_LABELS = "SEQ_CLS"


def find(pool: Pool) -> Findings:
    """A repeated input is one example, and each of its targets is right: more than its author may
    have meant."""
    for name, rows in pool.rows.items():
        torn: list[list[int]] = []
        alike: list[list[int]] = []
        for found in _repeated((row.question, place) for place, row in enumerate(rows, start=1)):
            targets = {frozenset(rows[place - 1].references) for place in found}
            (torn if len(targets) > 1 else alike).append(found)
        if torn:
            said = _said(torn, "with different targets")
            fix = "keep those that are right; where all are, write them as a list"
            yield warning(f"{said}: each of them counts as right", fix, name)
        if alike:
            yield warning(_said(alike, "more than once"), "keep one of each", name)
        ranked = pool.spec.experts[name].metric == "accuracy"
        if not ranked or task_of(pool.base.config) == _LABELS:
            yield from _without_ranking(name, rows)


def _without_ranking(name: str, rows: Sequence[Example]) -> Findings:
    """Where choices are not ranked, they make no other question of the same input."""
    first: dict[Hashable, int] = {}
    for place, row in enumerate(rows, start=1):
        first.setdefault(row.question, place)
    found = _repeated((rows[place - 1].input, place) for place in first.values())
    if found:
        said = _said(found, "with different choices")
        fix = "keep one of each, or use metric: accuracy, which ranks choices"
        yield warning(f"{said}: only the first is asked", fix, name)


def _repeated(asked: Iterable[tuple[Hashable, int]]) -> list[list[int]]:
    """The places of whatever is asked at several."""
    places: defaultdict[Hashable, list[int]] = defaultdict(list)
    for what, place in asked:
        places[what].append(place)
    return [found for found in places.values() if len(found) > 1]


def _said(repeated: list[list[int]], how: str) -> str:
    inputs = "1 input is" if len(repeated) == 1 else f"{len(repeated)} inputs are"
    first = " and ".join(map(str, repeated[0][:2]))
    return f"{inputs} given {how}, first in examples {first}"
