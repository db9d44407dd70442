"""Under pytest-xdist gates end as they do without it, and each is computed once."""

from __future__ import annotations

import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from pools import examples, write_jsonl

if TYPE_CHECKING:
    from pathlib import Path

    from plugin.gates import Gates

pytestmark = pytest.mark.slow

ON = ("--mergegate", "-n2", "--mergegate-report=json:report.json")
SHALLOW = "--mergegate-stage=preflight"
"""Nothing is decided, and no worker has to import torch."""
METRIC = """
import os
from pathlib import Path

def learned(outputs, targets):
    calls = Path("{folder}", "calls")
    with calls.open("a") as file:
        file.write(str(os.getpid()) + " ")
    # the base is scored first, on all tasks, and knows nothing: it must not pass by itself
    return [0.0 if len(calls.read_text().split()) <= 6 else 1.0] * len(outputs)
"""


@pytest.fixture
def _undecided_passes(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmergegate_on_inconclusive = warn")


def report_of(pytester: pytest.Pytester) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((pytester.path / "report.json").read_text("utf-8"))
    return data


def test_a_pass_computed_once(pytester: pytest.Pytester, gates: Gates) -> None:
    pytester.makepyfile(metric=METRIC.format(folder=pytester.path))
    for name in "abc":  # enough to judge a score by
        write_jsonl(pytester.path / f"{name}.jsonl", examples(name, "plain", 30, 1))
    experts = {
        name: gates.expert(name, metric="metric:learned", examples=f"{name}.jsonl")
        for name in "abc"
    }
    gates.write(budget={"max_loss": 1.0}, experts=experts)
    result = pytester.runpytest(*ON)
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["PASS *mergegate.yaml: 3 experts within budget*"])
    assert report_of(pytester)["status"] == "pass"
    callers = (pytester.path / "calls").read_text("utf-8").split()
    # three experts: by the base, by themselves and by the merge, and each asked twice
    assert len(callers) == 18
    assert len(set(callers)) == 1


@pytest.fixture
def temporary(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this run and its workers keep temporary files."""
    folder = pytester.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_failure(pytester: pytest.Pytester, gates: Gates, temporary: Path) -> None:
    gates.failing("a.mergegate.yaml")
    gates.passing("b.mergegate.yaml")
    result = pytester.runpytest(*ON)
    result.assert_outcomes(failed=4, passed=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert [report["status"] for report in report_of(pytester)["reports"]] == ["fail", "pass"]
    assert not list(temporary.glob("pytest-mergegate*"))


def test_an_expert_that_cannot_be_read(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.unreadable()
    result = pytester.runpytest(*ON)
    result.assert_outcomes(errors=4)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert report_of(pytester)["status"] == "error"


def test_a_gate_file_that_cannot_be_read(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.malformed()
    result = pytester.runpytest(*ON)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["mergegate.yaml:2: unknown key 'budgt'*"])
    assert report_of(pytester)["status"] == "error"


@pytest.mark.usefixtures("_undecided_passes")
def test_a_worker_that_dies(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    pytester.makeconftest(
        """
        import os

        def pytest_runtest_setup(item):
            if item.name == "b":
                os._exit(0)
        """
    )
    result = pytester.runpytest(*ON, SHALLOW, "--max-worker-restart=0")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["worker 'gw*' crashed while running 'mergegate.yaml::b'"])


@pytest.mark.usefixtures("_undecided_passes")
def test_a_gate_that_never_reports(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item):
            return True if item.name == "pool" else None
        """
    )
    result = pytester.runpytest(*ON, SHALLOW)
    result.assert_outcomes(passed=3, warnings=3)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["mergegate: collected, but never reported: mergegate.yaml::pool"])
    assert report_of(pytester)["status"] == "inconclusive"


@pytest.mark.usefixtures("_undecided_passes")
def test_what_cannot_travel_does_not_end_in_0(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    pytester.makepyfile(
        """
        import numpy as np
        from pytest_mergegate import mergeable

        @mergeable()
        def test_pool(record_property):
            record_property("score", np.float64(1.0))
        """
    )
    result = pytester.runpytest(*ON, SHALLOW)
    # xdist's own error, or, where the other worker ends first, ours for what was never reported
    assert result.ret in {pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.TESTS_FAILED}


@pytest.mark.usefixtures("_undecided_passes")
def test_a_marker_s_mistake(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    pytester.makepyfile(
        """
        from pytest_mergegate import mergeable

        @mergeable(max_mdss=3)
        def test_pool(): pass
        """
    )
    result = pytester.runpytest(*ON, SHALLOW)
    result.assert_outcomes(passed=4, errors=1, warnings=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*::test_pool: *'max_mdss'; did you mean 'max_mds'?"])


def test_n0_is_no_xdist(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    result = pytester.runpytest("--mergegate", "-n0", "--mergegate-report=json:report.json")
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.OK
    assert report_of(pytester)["status"] == "pass"


def test_a_run_inside_a_worker_leaves_the_worker_s_files_alone(
    pytester: pytest.Pytester, gates: Gates, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "outer")
    files = temporary / f"pytest-mergegate-{os.getuid()}-outer"
    files.mkdir()
    gates.passing()
    pytester.runpytest("--mergegate").assert_outcomes(passed=4)
    assert files.is_dir()
