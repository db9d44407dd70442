"""MG108: an expert whose change is far larger or smaller than those of its pool."""

from statistics import median

from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, warning

_FACTOR = 10.0
_FIX = "give the larger change a smaller weight in merge.weights, or check scales and training"


ABOUT_MAKING = True


def find(pool: Pool) -> Findings:
    """Under equal weights, the largest change decides and the smallest is drowned out."""
    known = {
        name: norm
        for name, statistics in pool.statistics.items()
        if (norm := statistics.relative_norm) is not None and norm > 0
    }
    if len(known) == 2:
        (small, less), (large, more) = sorted(known.items(), key=lambda item: item[1])
        if more > _FACTOR * less:
            yield warning(
                f"‖ΔW‖/‖W‖ is {more:.2g} in {large} and {less:.2g} in {small}, "
                f"{more / less:.1f} times smaller",
                _FIX,
            )
    if len(known) < 3:
        return
    middle = median(known.values())
    for name, norm in known.items():
        if not middle / _FACTOR <= norm <= middle * _FACTOR:
            times = f"{norm / middle:.1f}" if norm > middle else f"1/{middle / norm:.1f}"
            said = f"‖ΔW‖/‖W‖ is {norm:.2g}, {times} times the pool's median {middle:.2g}"
            yield warning(said, _FIX, name)
