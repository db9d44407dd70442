"""The way down: in order, no deeper than the budgets ask, and with all that was found on it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.gate.options import STAGES
from pytest_mergegate.stages import pipeline
from pytest_mergegate.stages.context import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_mergegate.stages.context import Results


def step(name: Any, *, fails: bool = False) -> Any:
    """A stage that notes its name among the findings, twice."""

    def run(context: Any, earlier: Results) -> Iterator[Results]:
        yield (earlier := replace(earlier, findings=(*earlier.findings, name)))
        if fails:
            raise GateError("it went wrong")
        yield replace(earlier, findings=(*earlier.findings, f"more {name}"))

    return run


def context(deepest: str, stages: Sequence[str] = STAGES) -> Any:
    """What notes that it was closed."""
    decisions, closed = SimpleNamespace(deepest=deepest, stages=stages), list[bool]()
    return SimpleNamespace(
        pool=object(),
        clock=Clock(),
        decisions=decisions,
        close=lambda: closed.append(True),
        closed=closed,
    )


def test_has_the_stages_that_gates_name() -> None:
    assert tuple(pipeline.STAGES) == STAGES


def test_leaves_out_what_no_budget_of_a_finished_merge_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "STAGES", {name: step(name) for name in STAGES})
    last: Any
    *_, last = pipeline.run(context("eval", ["merge", "eval"]))
    ran = ("preflight", "merge", "eval")
    assert last.findings == tuple(said for name in ran for said in (name, f"more {name}"))


@pytest.mark.parametrize("deepest", STAGES)
def test_ends_where_the_budgets_are_decided(monkeypatch: pytest.MonkeyPatch, deepest: str) -> None:
    monkeypatch.setattr(pipeline, "STAGES", {name: step(name) for name in STAGES})
    run = context(deepest)
    last: Any
    *_, last = pipeline.run(run)
    down_to = STAGES[: STAGES.index(deepest) + 1]
    assert last.findings == tuple(said for name in down_to for said in (name, f"more {name}"))
    assert tuple(run.clock.seconds) == down_to
    assert run.closed == [True]


def test_leaves_behind_what_was_found_before_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = {"preflight": step("preflight"), "conflict": step("conflict", fails=True)}
    monkeypatch.setattr(pipeline, "STAGES", failing)
    found: list[Any] = []
    run = context("eval")
    with pytest.raises(GateError, match="it went wrong"):
        found.extend(pipeline.run(run))
    assert found[-1].findings == ("preflight", "more preflight", "conflict")
    assert run.closed == [True]
