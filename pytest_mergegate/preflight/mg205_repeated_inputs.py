"""MG205: the same input twice among one expert's examples."""

from collections import defaultdict

from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, error, warning

_FIX = "keep one of each"


def find(pool: Pool) -> Findings:
    """A repetition counts double in every score and bound; two targets cannot both be right."""
    for name, examples in pool.examples.items():
        places: defaultdict[object, list[int]] = defaultdict(list)
        for place, example in enumerate(examples):
            places[example.question].append(place)
        torn: list[list[int]] = []
        alike: list[list[int]] = []
        for found in places.values():
            if len(found) > 1:
                targets = {examples[place].target for place in found}
                (torn if len(targets) > 1 else alike).append(found)
        if torn:
            yield error(_said(torn, "with different targets"), _FIX, name)
        if alike:
            yield warning(_said(alike, "more than once"), _FIX, name)


def _said(repeated: list[list[int]], how: str) -> str:
    inputs = "1 input is" if len(repeated) == 1 else f"{len(repeated)} inputs are"
    first = " and ".join(str(place + 1) for place in repeated[0][:2])
    return f"{inputs} given {how}, first in examples {first}"
