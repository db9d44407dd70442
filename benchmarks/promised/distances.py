"""Statements about the mean distance of answers that are compared as texts: graded distances."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from promised.rows import Row, Scenario, Statement, counted
from pytest_mergegate.engine.running.distances import Distances

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Rng = np.random.Generator
    Draw = Callable[[Rng, int], npt.NDArray[np.float64]]

INTERVAL = Statement(
    name="distance",
    text="The 95 % interval of one expert's mean distance, compared as texts, does not hold the "
    "true one.",
)
BOUND = Statement(
    name="distance-bound",
    text="The 95 % bound of one expert's mean distance, compared as texts, is below the true one.",
)
STATEMENTS = (INTERVAL, BOUND)
SIZES = (20, 64, 256)
SHAPES: dict[str, tuple[float, Draw]] = {
    "0/1, half of them": (0.5, lambda rng, n: (rng.random(n) < 0.5).astype(float)),
    "0/1, a twentieth": (0.05, lambda rng, n: (rng.random(n) < 0.05).astype(float)),
    "uniform": (0.5, lambda rng, n: rng.random(n)),
    "mostly 0 with a few 1": (
        0.1,
        lambda rng, n: np.where(rng.random(n) < 0.8, 0.0, rng.integers(0, 2, n)),
    ),
    "small with a few 1": (
        0.95 * 0.05 + 0.05,
        lambda rng, n: np.where(rng.random(n) < 0.05, 1.0, rng.uniform(0, 0.1, n)),
    ),
}
"""The true mean, and how distances are drawn."""


def missed(shape: str, inputs: int, rng: Rng, gates: int) -> list[Row]:
    """How often the interval and the bound do not hold the truth."""
    mean, draw = SHAPES[shape]
    outside, below = [], []
    for _ in range(gates):
        values = tuple(draw(rng, inputs).tolist())
        found = Distances(comparison="rouge_l", seen=values, least=values, most=values)
        low, high = found.disagreement(0.95).interval or (0.0, 1.0)
        outside.append(not low <= mean <= high)
        below.append(found.upper(0.95) < mean)
    setting = f"{shape}, {inputs} inputs"
    rows = counted(INTERVAL, setting, 0.05, outside)
    return rows + counted(BOUND, setting, 0.05, below)


def scenarios() -> Iterator[Scenario]:
    """All of them."""
    for shape, inputs in product(SHAPES, SIZES):
        yield Scenario(
            statement=INTERVAL,
            label=f"{shape}, {inputs} inputs",
            run=partial(missed, shape, inputs),
            quick=inputs == SIZES[0],
        )
