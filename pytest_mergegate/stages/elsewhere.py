"""Merges that other processes make, certify and score, with what is known of the pool here."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.plain import dump, load
from pytest_mergegate.engine.running.cache import Arrays, Key
from pytest_mergegate.engine.running.executors import (
    Errand,
    Found,
    Job,
    Kind,
    blocks_of,
    look_up,
)
from pytest_mergegate.engine.running.workspace import Workspace
from pytest_mergegate.evaluation.comparing import comparer
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.options import Options
from pytest_mergegate.merging.method import Method
from pytest_mergegate.stages.context import BudgetQuestions, Clock, Context, Results
from pytest_mergegate.stages.merge import Made, make_merge, merge_key

_FOUND = ("methods", "hidden", "surrogates", "scores")
"""What a merge takes of the results so far."""


@dataclass(frozen=True, kw_only=True)
class _Given:
    """All that merges are made and compared with, but for files."""

    options: Options
    decisions: BudgetQuestions
    found: Mapping[str, Any]
    """Of the stages before."""
    own: Mapping[Kind, Found]
    """What experts do on their own inputs, as far as it is known."""
    per_task: int
    answer_limit: int


class Elsewhere:
    """Merges that the executor's workers make: those that are asked for first before the others, so
    that of a search that ends at the first that passes little is made in vain."""

    def __init__(self, context: Context, earlier: Results, methods: Sequence[Method]) -> None:
        self._context, self._earlier, self._methods = context, earlier, methods
        self._found: dict[str, Arrays | GateError] = {}
        self._coming: Generator[tuple[Errand, Arrays | GateError]] | None = None

    @property
    def is_there(self) -> bool:
        """Whether there are workers; a scorer of the test session's own is known only here."""
        options = self._context.options
        return options.executor != "local" and options.scorer is None

    def made(self, method: Method) -> Made | None:
        """The merge by ``method``, once a worker has made it; None where none was asked to, since
        it was kept at that time. Raises GateError."""
        if self._coming is None:
            self._coming = self._begin()
        while method.label not in self._found:
            if (done := next(self._coming, None)) is None:
                return None
            errand, self._found[errand.name] = done
            self._context.tell("merges", len(self._found) / len(self._methods))
        found = self._found[method.label]
        if isinstance(found, GateError):
            raise found
        made: Made = load(Made, found)
        return made

    def close(self) -> None:
        """Give up what nobody asks for any more."""
        if self._coming is not None:
            self._coming.close()

    def _begin(self) -> Generator[tuple[Errand, Arrays | GateError]]:
        from pytest_mergegate.engine.running.ray_executor import RayExecutor

        context, executor = self._context, self._context.executor
        assert isinstance(executor, RayExecutor)
        given = _Given(
            options=replace(context.options, executor="local", progress=None),
            decisions=context.decisions,
            found={name: getattr(self._earlier, name) for name in _FOUND},
            own=_own_rows(context),
            per_task=context.workspace.per_task,
            answer_limit=context.workspace.answer_limit,
        )
        errands = [
            Errand(kind="merge", name=m.label, function=_make, key=_key(context, m))
            for m in self._methods
            if not _is_kept(context, m)
        ]
        return executor.work(context.workspace, errands, given)


def _is_kept(context: Context, method: Method) -> bool:
    may_be = method.root is None and context.workspace.keeps_comparisons
    return may_be and context.cache.peek(merge_key(context, method)) is not None


def _key(context: Context, method: Method) -> Key:
    """Of what a worker makes, on whatever processor."""
    return context.key("made", method=method.plain)


def _own_rows(context: Context) -> dict[Kind, Found]:
    """The answers of experts to their own inputs, and the states that give them, from the cache or
    an earlier stage."""
    workspace, count = context.workspace, context.gate.spec.certificate.per_task
    own: dict[Kind, Found] = {"answers": {}, "states": {}}
    for name, draw in workspace.draws.items():
        blocks = tuple(blocks_of(name, draw.order[:count]))
        said = look_up(workspace, Job(kind="answers", model=name, blocks=blocks), again=True)
        own["answers"] |= said
        answered = tuple(
            replace(block, answers=tuple(map(tuple, rows))) for (_, block), rows in said.items()
        )
        along = Job(kind="states", model=name, blocks=answered)
        own["states"] |= look_up(workspace, along, again=True)
    return own


def _make(gate: Gate, workspace: Workspace, name: str, given: _Given) -> tuple[Key, Arrays]:
    """In a worker: the merge by the method called ``name``. Raises GateError."""
    workspace.per_task = given.per_task
    workspace.let_answers_grow(given.answer_limit)
    for kind, found in given.own.items():
        workspace.ahead |= {(kind, *which): rows for which, rows in found.items()}
    workspace.comparer = lru_cache(maxsize=None)(partial(comparer, gate))
    pool, decisions = workspace.pool, given.decisions
    context = Context(gate, pool, given.options, workspace.cache, Clock(), lambda: decisions)
    context.workspace = workspace  # whose base is loaded
    results = Results(pool=pool, **given.found)
    method = next(method for method in results.methods if method.label == name)
    made = make_merge(context, results, method)
    return _key(context, method), dump(Made, made)
