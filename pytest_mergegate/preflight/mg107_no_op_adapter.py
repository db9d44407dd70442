"""MG107: an expert that changes nothing, and so agrees with every merge that ignores it."""

from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.statistics import NEGLIGIBLE
from pytest_mergegate.preflight.told import Findings, error


def find(pool: Pool) -> Findings:
    """The change as a whole must be more than a rounding error of what it changes."""
    for expert in pool.experts:
        statistics = pool.statistics[expert.name]
        if None in statistics.norms.values():  # PEFT alone can say, or another finding has
            continue
        nothing = statistics.unchanged >= set(expert.changes)
        relative = 0.0 if nothing else statistics.relative_norm
        if relative is not None and relative < NEGLIGIBLE:
            size = "every change is zero" if nothing else f"‖ΔW‖ is {relative:.1e} of ‖W‖"
            said = f"the {'adapter' if expert.is_adapter else 'checkpoint'} changes nothing: {size}"
            fix = "it was saved untrained, or its tensors were lost; save it again"
            yield error(said, fix, expert.name)
