"""The end of a run: which code it ends in, and what is written and told on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_mergegate.common.statuses import STATUSES, Exit, worst
from pytest_mergegate.gate.options import Options, ReportTarget
from pytest_mergegate.report.baseline import read_baseline
from pytest_mergegate.report.run_end import Run, end_run
from pytest_mergegate.report.types import Collected, Report

if TYPE_CHECKING:
    from pathlib import Path


def ended(*statuses: Any, options: Options | None = None, **run: Any) -> tuple[int, str]:
    """Exit code and problems of a run whose gates come to ``statuses``."""
    reports = tuple(
        Report(
            status=status,
            gate=f"{place}.yaml",
            created="",
            versions={},
            device="cpu",
            seconds={},
            settings={},
        )
        for place, status in enumerate(statuses)
    )
    end = end_run(Run(found=Collected(reports=reports), **run), options or Options(), None)
    return end.code, "; ".join(end.problems)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["pass", "pass"], Exit.PASSED),
        (["pass", "fail"], Exit.NOT_PASSED),
        (["inconclusive"], Exit.NOT_PASSED),
        (["fail", "error"], Exit.UNREADABLE),
        ([], Exit.PASSED),
    ],
)
def test_gates_alone(statuses: list[str], code: Exit) -> None:
    assert ended(*statuses) == (code, "")


def test_preflight_alone_may_leave_budgets_unjudged() -> None:
    assert ended("inconclusive", preflight_alone=True) == (Exit.PASSED, "")
    assert ended("inconclusive", "fail", preflight_alone=True)[0] == Exit.NOT_PASSED


class TestBesideTests:
    def test_what_else_went_wrong_stays(self) -> None:
        for code in (1, 3, 4):
            assert ended("pass", code=code)[0] == code
        assert ended("error", code=1)[0] == Exit.UNREADABLE
        assert ended("error", code=3)[0] == 3

    def test_nothing_gated_is_never_green(self) -> None:
        assert ended(code=0, gated=False) == (5, "asked to gate, but no gate ran")

    def test_nor_are_lost_gates(self) -> None:
        told = "collected, but never reported: a and 1 more"
        assert ended("pass", code=0, lost=("a", "b")) == (1, told)

    def test_nor_is_a_failure_that_no_selected_item_has_shown(self) -> None:
        code, told = ended("fail", code=0, selected=frozenset({"0.yaml"}))
        assert code == Exit.NOT_PASSED
        assert told.endswith("0.yaml")
        assert ended("fail", code=0)[0] == Exit.PASSED  # its test has failed, and was expected to

    def test_undecided_gates_may_be_tolerated(self) -> None:
        seen: dict[str, Any] = {"code": 0, "selected": frozenset({"0.yaml"})}
        assert ended("inconclusive", **seen)[0] == Exit.NOT_PASSED
        warned = Options(on_inconclusive="warn")
        assert ended("inconclusive", options=warned, **seen)[0] == Exit.PASSED


def test_every_problem_is_told_and_none_is_green(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    target = ReportTarget(format="json", path=tmp_path / "taken" / "out.json")
    code, told = ended("pass", code=0, options=Options(reports=(target,)), problems=("a hook",))
    assert code == Exit.NOT_PASSED
    assert told.startswith("a hook; the report ")


def test_a_baseline_that_was_spoilt_meanwhile_is_no_pass(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    baseline = read_baseline(path, tmp_path)
    path.write_text("spoilt", "utf-8")
    run = Run(found=Collected(reports=()))
    end = end_run(run, Options(baseline=path, update_baseline=True), baseline)
    assert end.code == Exit.NOT_PASSED
    assert end.problems[0].startswith("the baseline was not written (")


def test_the_worst_status() -> None:
    assert STATUSES == ("pass", "inconclusive", "fail", "error")
    assert worst(["pass", "fail", "inconclusive"]) == "fail"
    assert (worst([]), worst(["pass"], "inconclusive")) == ("pass", "inconclusive")
