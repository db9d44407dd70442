"""A pool is taken through five stages, each deeper and costlier, until the budgets are decided."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

from pytest_mergegate.gate.options import Stage
from pytest_mergegate.stages import all_merges, conflict, evaluate, finished, hidden, preflight
from pytest_mergegate.stages.context import Context, Results


def _merges(context: Context, earlier: Results) -> Iterator[Results]:
    """The merges that the gate makes, or the finished one that it names."""
    if context.pool.merged is None:
        return all_merges.run(context, earlier)
    return finished.run(context, earlier)


STAGES: Mapping[Stage, Callable[[Context, Results], Iterator[Results]]] = {
    "preflight": preflight.run,
    "conflict": conflict.run,
    "hidden": hidden.run,
    "merge": _merges,
    "eval": evaluate.run,
}
"""One step on the way down each: the results so far with what the stage finds, each time that it
has found more of it, so that an error leaves behind what was found before it.

What a stage finds is frozen data, kept in the cache under all that it depends on: the key and the
type of what is kept stand together, where it is computed. All raise GateError.
"""


def run(context: Context) -> Iterator[Results]:
    """All that is known of the pool, each time that more of it is. Raises GateError."""
    known = Results(pool=context.pool)
    with closing(context):
        for name, stage in STAGES.items():
            if name == "preflight" or name in context.decisions.stages:
                with context.clock.timed(name):
                    for more in stage(context, known):
                        known = more
                        yield known
            if name == context.decisions.deepest:
                return


def read_states(context: Context, *, conflicts: bool) -> Results:
    """The hidden states of a sound pool, on which other merges than the gate's own are planned, and
    its ``conflicts`` where they are asked for. Raises GateError."""
    known = Results(pool=context.pool)
    with closing(context):
        if conflicts:
            *_, known = conflict.run(context, known)
        *_, known = hidden.run(context, known, forecasts=False)
    return known
