"""Beside the plugins that projects have installed, and under pytest's own ways to run a part."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from plugin.conftest import NEIGHBOURS
from plugin.gates import CHEAP
from pytest_mergegate.testing import session

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugin.gates import Gates

pytestmark = pytest.mark.slow

ON = ("--mergegate", "--mergegate-report=json:report.json")
TEST = """
from pytest_mergegate import mergeable

tries = []

@mergeable("mergegate.yaml")
def test_pool(merge_report):
    tries.append(1)
    assert len(tries) > {needed}
"""


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let one of the neighbours in."""

    def let_in(name: str) -> None:
        off = ["hypothesispytest", *(other for other in NEIGHBOURS if other != name)]
        monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{other}" for other in off))

    return let_in


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The gates that were computed, one entry for each time."""
    names: list[str] = []
    real = session.run_gate

    def counted(gate: Any, *how: Any) -> Any:
        names.append(gate.name)
        return real(gate, *how)

    monkeypatch.setattr(session, "run_gate", counted)
    return names


def report_of(pytester: pytest.Pytester) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((pytester.path / "report.json").read_text("utf-8"))
    return data


class TestRerunfailures:
    @pytest.fixture(autouse=True)
    def _on(self, beside: Callable[[str], None]) -> None:
        beside("rerunfailures")

    def test_a_gate_is_not_rerun(
        self, pytester: pytest.Pytester, gates: Gates, computed: list[str]
    ) -> None:
        gates.failing()
        result = pytester.runpytest(*ON, "--reruns=2", "--strict-markers")
        assert result.parseoutcomes() == {"failed": 4}
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert computed == ["mergegate.yaml"]
        assert report_of(pytester)["status"] == "fail"

    def test_nor_into_a_pass_where_it_is_forced(
        self, pytester: pytest.Pytester, gates: Gates, computed: list[str]
    ) -> None:
        gates.failing()
        result = pytester.runpytest(*ON, "--force-reruns=2")
        assert result.parseoutcomes() == {"failed": 4, "rerun": 8}
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert computed == ["mergegate.yaml"]

    def test_an_error_stays_one(
        self, pytester: pytest.Pytester, gates: Gates, computed: list[str]
    ) -> None:
        gates.unreadable()
        result = pytester.runpytest(*ON, "--reruns=2")
        assert result.parseoutcomes() == {"errors": 4}
        assert result.ret == pytest.ExitCode.INTERRUPTED
        assert computed == ["mergegate.yaml"]

    def test_nor_is_a_marked_test_s_gate(
        self, pytester: pytest.Pytester, gates: Gates, computed: list[str]
    ) -> None:
        gates.failing()
        pytester.makepyfile(TEST.format(needed=0))
        result = pytester.runpytest(*ON, "--reruns=2", "--deselect=mergegate.yaml")
        outcomes = result.parseoutcomes()
        assert (outcomes["failed"], outcomes["rerun"]) == (1, 2)
        assert "passed" not in outcomes
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert computed == ["mergegate.yaml"]

    def test_a_body_may_be(
        self, pytester: pytest.Pytester, gates: Gates, computed: list[str]
    ) -> None:
        gates.passing()
        pytester.makepyfile(TEST.format(needed=1))
        result = pytester.runpytest(*ON, "--reruns=2")
        assert result.parseoutcomes() == {"passed": 5, "rerun": 1}
        assert result.ret == pytest.ExitCode.OK
        assert computed == ["mergegate.yaml"]

    def test_with_workers(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing()
        result = pytester.runpytest(*ON, "--reruns=2", "-n2")
        assert result.parseoutcomes() == {"failed": 4}
        assert result.ret == pytest.ExitCode.TESTS_FAILED


class TestRandomly:
    @pytest.fixture(autouse=True)
    def _on(self, beside: Callable[[str], None]) -> None:
        beside("randomly")

    @pytest.mark.usefixtures("any_base")
    def test_neither_order_nor_seed_changes_a_number(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        methods = [{"method": "dare_ties", "density": 0.5}]
        gates.write(budget={"max_mds": 100.0, "max_disagreement": 1.0}, merge={"methods": methods})
        found, orders = [], []
        for number in (1, 2):
            seed = f"--randomly-seed={number}"
            result = pytester.runpytest(*ON, "-v", "--mergegate-no-cache", seed)
            result.assert_outcomes(passed=4)
            orders.append(re.findall(r"mergegate.yaml::(\w+) PASSED", result.stdout.str()))
            report = report_of(pytester)
            assert report["merges"]
            found.append({k: v for k, v in report.items() if k not in {"created", "seconds"}})
        assert found[0] == found[1]
        assert orders[0] != orders[1]
        assert set(orders[0]) == {"a", "b", "c", "pool"}

    def test_a_failure_is_one_in_every_order(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing("a.mergegate.yaml")
        gates.passing("b.mergegate.yaml")
        for number in range(3):
            result = pytester.runpytest(*ON, f"--randomly-seed={number}")
            result.assert_outcomes(failed=4, passed=4)
            assert result.ret == pytest.ExitCode.TESTS_FAILED


class TestAnnotations:
    @pytest.fixture(autouse=True)
    def _on(
        self,
        pytester: pytest.Pytester,
        beside: Callable[[str], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        beside("pytest_github_actions_annotate_failures")
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path))

    @staticmethod
    def annotations(result: pytest.RunResult) -> list[str]:
        said = [*result.outlines, *result.errlines]
        return [line for line in said if re.match(r"::(error|warning|notice)\b", line)]

    @pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
    def test_one_for_each_item_at_its_line(
        self, pytester: pytest.Pytester, gates: Gates, workers: tuple[str, ...]
    ) -> None:
        path = gates.failing("models/mergegate.yaml")
        lines = path.read_text(encoding="utf-8").splitlines()
        result = pytester.runpytest(*ON, *workers)
        result.assert_outcomes(failed=4)
        where = {name: lines.index(f"  {name}:") + 1 for name in "abc"} | {"pool": 1}
        expected = {
            f"::error file=models/mergegate.yaml,line={line}::mergegate: {name}"
            for name, line in where.items()
        }
        found = self.annotations(result)
        assert {line.partition("%0A")[0] for line in found} == expected
        assert len(found) == 4

    def test_none_for_what_passed(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        result = pytester.runpytest(*ON)
        result.assert_outcomes(passed=4)
        assert self.annotations(result) == []

    def test_one_for_a_marked_test(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing()
        pytester.makepyfile(test_it=TEST.format(needed=0))
        result = pytester.runpytest(*ON, "test_it.py")
        result.assert_outcomes(failed=1)
        (found,) = self.annotations(result)
        assert found.startswith("::error file=test_it.py,line=5::test_pool%0A%0A")
        assert result.stdout.str().count("3 of 3 experts not within budget: a, b, c\n  a: ") == 1
        result.stdout.no_fnmatch_line("*another exception*")

    def test_of_a_gate_in_error_there_is_none(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.unreadable()
        result = pytester.runpytest(*ON)
        result.assert_outcomes(errors=4)
        assert (
            self.annotations(result) == []
        )  # that plugin looks at no setup; see docs/neighbours.md


class TestCov:
    @pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
    def test_measures_the_project(
        self, pytester: pytest.Pytester, gates: Gates, workers: tuple[str, ...]
    ) -> None:
        gates.passing()
        pytester.makepyfile(project="def answer():\n    return 42\n\ndef other():\n    return 0\n")
        pytester.makepyfile(
            """
            import project
            from pytest_mergegate import mergeable

            @mergeable("mergegate.yaml")
            def test_pool():
                assert project.answer() == 42
            """
        )
        cov = ("--cov=project", "--cov-report=term-missing")
        result = pytester.runpytest_subprocess(*ON, *cov, *workers)
        result.assert_outcomes(passed=5)
        assert result.ret == pytest.ExitCode.OK
        result.stdout.fnmatch_lines(["project.py * 4 * 1 * 75% * 5"])
        result.stdout.no_fnmatch_line("*CoverageWarning*")
        result.stdout.fnmatch_lines(["PASS *mergegate.yaml*"])

    def test_a_gate_fails_under_it(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing()
        result = pytester.runpytest_subprocess(*ON, "--cov=.", "--cov-fail-under=0")
        result.assert_outcomes(failed=4)
        assert result.ret == pytest.ExitCode.TESTS_FAILED


class TestXdist:
    @pytest.mark.parametrize("dist", ["load", "loadfile", "loadgroup", "loadscope", "worksteal"])
    def test_every_way_to_share_tests_out(
        self, pytester: pytest.Pytester, gates: Gates, dist: str
    ) -> None:
        gates.failing("a.mergegate.yaml")
        gates.passing("b.mergegate.yaml")
        result = pytester.runpytest(*ON, "-n2", f"--dist={dist}")
        result.assert_outcomes(failed=4, passed=4)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert [r["status"] for r in report_of(pytester)["reports"]] == ["fail", "pass"]

    @pytest.mark.parametrize("option", ["-x", "--maxfail=2"])
    def test_stopping_early(self, pytester: pytest.Pytester, gates: Gates, option: str) -> None:
        gates.failing()
        result = pytester.runpytest(*ON, "-n2", option)
        assert result.ret in {pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED}
        assert result.parseoutcomes()["failed"] >= 1
        assert report_of(pytester)["status"] == "fail"


class TestAPartOfARun:
    def test_the_first_failure(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing("a.mergegate.yaml")
        gates.passing("b.mergegate.yaml")
        result = pytester.runpytest(*ON, "-x")
        assert result.parseoutcomes() == {"failed": 1}
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert report_of(pytester)["status"] == "fail"

    def test_the_last_failures(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing("a.mergegate.yaml")
        gates.passing("b.mergegate.yaml")
        pytester.runpytest(*ON)
        result = pytester.runpytest(*ON, "--lf")
        assert result.parseoutcomes() == {"failed": 4}
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        gates.passing("a.mergegate.yaml")
        result = pytester.runpytest(*ON, "--lf")
        assert result.parseoutcomes() == {"passed": 4}
        assert result.ret == pytest.ExitCode.OK

    def test_the_last_failures_are_no_gates(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        path = pytester.makepyfile("def test_plain(): assert False")
        pytester.runpytest(*ON)
        path.write_text("def test_plain(): pass", encoding="utf-8")
        result = pytester.runpytest(*ON, "--lf")
        assert result.parseoutcomes() == {"passed": 1}
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
        result.stdout.fnmatch_lines(["mergegate: asked to gate, but no gate ran"])

    def test_step_by_step(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing()
        for _ in range(2):
            result = pytester.runpytest(*ON, "--sw")
            assert result.parseoutcomes()["failed"] == 1
            assert result.ret != pytest.ExitCode.OK
        gates.passing()
        result = pytester.runpytest(*ON, "--sw")
        assert result.parseoutcomes() == {"passed": 4}
        assert result.ret == pytest.ExitCode.OK

    def test_a_step_past_the_failing_expert(self, pytester: pytest.Pytester, gates: Gates) -> None:
        """What is left of a gate that failed may pass item by item, and the run does not."""
        gates.write(budget={"max_mds": 1.0})
        first = pytester.runpytest(*ON, "--sw", "--sw-skip")
        assert first.ret != pytest.ExitCode.OK
        result = pytester.runpytest(*ON, "--sw", "--sw-skip")
        assert result.ret != pytest.ExitCode.OK

    def test_nothing_at_all(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing()
        off = pytester.runpytest("-p", "no:mergegate")
        assert off.ret == pytest.ExitCode.NO_TESTS_COLLECTED
        looked = pytester.runpytest(*ON, "--collect-only", "-q")
        looked.stdout.fnmatch_lines(["mergegate.yaml::a", "mergegate.yaml::pool"])
        assert looked.ret == pytest.ExitCode.OK
        assert not (pytester.path / "report.json").exists()


def test_our_own_runs_have_no_neighbours(pytester: pytest.Pytester, gates: Gates) -> None:
    assert CHEAP in gates.passing().read_text(encoding="utf-8")
    result = pytester.runpytest("--mergegate", "-v")
    result.stdout.no_fnmatch_line("*randomly-seed*")
    found = re.findall(r"mergegate.yaml::(\w+) PASSED", result.stdout.str())
    assert found == ["a", "b", "c", "pool"]
