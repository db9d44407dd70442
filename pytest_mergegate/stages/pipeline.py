"""A pool goes down five stages, each deeper and dearer, until the budgets are decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_mergegate.stages.conflict import Conflict
from pytest_mergegate.stages.evaluate import Evaluate
from pytest_mergegate.stages.hidden import Hidden
from pytest_mergegate.stages.merge import Merge
from pytest_mergegate.stages.preflight import Preflight
from pytest_mergegate.stages.results import Results

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.gate.options import Stage as StageName
    from pytest_mergegate.stages.context import Context


class Stage(Protocol):
    """One step on the way down.

    What it finds is frozen data, kept in the cache under all that it depends on: the key and the
    type of what is kept stand together, where it is computed.
    """

    @property
    def name(self) -> StageName:
        """How gate files, options and reports call it."""

    def run(self, context: Context, earlier: Results) -> Iterator[Results]:
        """``earlier`` with what this stage finds, each time that it has found more of it, so that
        an error leaves behind what was found before it. Raises GateError."""


STAGES: tuple[Stage, ...] = (Preflight(), Conflict(), Hidden(), Merge(), Evaluate())


def run(context: Context) -> Iterator[Results]:
    """All that is known of the pool, each time that more of it is. Raises GateError."""
    known = Results(pool=context.pool)
    for stage in STAGES:
        with context.clock.timed(stage.name):
            for more in stage.run(context, known):
                known = more
                yield known
        if stage.name == context.decisions.deepest:
            return


def read_states(context: Context, *, conflicts: bool) -> Results:
    """The hidden states of a sound pool, on which other merges than the gate's own are planned, and
    its ``conflicts`` where they are asked for. Raises GateError."""
    known = Results(pool=context.pool)
    if conflicts:
        *_, known = Conflict().run(context, known)
    *_, known = Hidden(forecasts=False).run(context, known)
    return known
