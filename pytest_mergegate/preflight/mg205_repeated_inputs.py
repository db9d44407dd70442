"""MG205: the same input twice among one expert's examples."""

from collections.abc import Iterable, Sequence

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.statuses import Severity
from pytest_mergegate.pool.examples import Example
from pytest_mergegate.pool.pool import Pool


def find(pool: Pool) -> Iterable[Finding]:
    """A repetition counts double in every score and bound; two targets cannot both be right."""
    for name, examples in pool.examples.items():
        torn: list[list[int]] = []
        alike: list[list[int]] = []
        for places in _places(examples).values():
            if len(places) > 1:
                targets = {examples[place].target for place in places}
                (torn if len(targets) > 1 else alike).append(places)
        if torn:
            yield _finding(name, torn, "error", "with different targets")
        if alike:
            yield _finding(name, alike, "warning", "more than once")


def _finding(expert: str, repeated: list[list[int]], severity: Severity, how: str) -> Finding:
    inputs = "1 input is" if len(repeated) == 1 else f"{len(repeated)} inputs are"
    first = " and ".join(str(place + 1) for place in repeated[0][:2])
    return Finding(
        code="MG205",
        severity=severity,
        expert=expert,
        message=f"{inputs} given {how}, first in examples {first}",
        fix="keep one of each",
    )


def _places(examples: Sequence[Example]) -> dict[object, list[int]]:
    places: dict[object, list[int]] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.question, []).append(place)
    return places
