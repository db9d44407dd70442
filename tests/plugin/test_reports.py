"""``--mergegate-report``: what is written, when, and where."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from plugin.gates import CHEAP
from pytest_mergegate import Report

if TYPE_CHECKING:
    from pathlib import Path

    from plugin.gates import Gates

ON = ("--mergegate", "--mergegate-report=json:out/report.json")


def written(pytester: pytest.Pytester, name: str = "out/report.json") -> Any:
    """The report's JSON; NaN and infinity are no JSON."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} in the report")

    text = (pytester.path / name).read_text("utf-8")
    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("gate", "status"), [("passing", "pass"), ("failing", "fail"), ("undecided", "inconclusive")]
)
def test_one_gate_gives_its_report(
    pytester: pytest.Pytester, gates: Gates, gate: str, status: str
) -> None:
    path: Path = getattr(gates, gate)()
    pytester.runpytest(*ON)
    report = Report.model_validate_json(json.dumps(written(pytester)))
    assert report.schema_ == "pytest-mergegate/report/1"
    assert (report.status, report.gate) == (status, str(path))
    assert {verdict.status for verdict in report.verdicts} == {status}
    assert [file.name for file in (pytester.path / "out").iterdir()] == ["report.json"]


def test_every_stage_s_numbers_are_json(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.write(budget={"max_loss": 0.0, "max_mds": 0.0, "max_disagreement": 0.0, CHEAP: 0.0})
    pytester.runpytest(*ON, "--mergegate-no-cache")
    report = Report.model_validate_json(json.dumps(written(pytester)))
    assert report.status == "fail"
    assert set(report.seconds) == {"preflight", "conflict", "load", "hidden", "merge", "eval"}
    assert report.merges[0].experts[0].score_merged is not None


def test_several_gates_give_a_list(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing("a.mergegate.yaml")
    gates.failing("b.mergegate.yaml")
    gates.undecided("c.mergegate.yaml")
    pytester.runpytest(*ON)
    data = written(pytester)
    assert data["schema"] == "pytest-mergegate/reports/1"
    assert data["status"] == "fail"
    assert [report["status"] for report in data["reports"]] == ["pass", "fail", "inconclusive"]


def test_the_default_path(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    pytester.runpytest("--mergegate", "--mergegate-report=json")
    assert written(pytester, "mergegate-report.json")["status"] == "pass"


def test_ini_reports(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    pytester.makeini("[pytest]\nmergegate_report =\n  json:a.json\n  json:b.json")
    pytester.runpytest("--mergegate")
    assert written(pytester, "a.json") == written(pytester, "b.json")


def test_no_report_unless_asked(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    pytester.runpytest("--mergegate")
    assert not list(pytester.path.glob("*.json"))


def test_a_gate_file_that_cannot_be_read(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.malformed()
    pytester.runpytest(*ON)
    report = Report.model_validate_json(json.dumps(written(pytester)))
    assert report.status == "error"
    assert [finding.code for finding in report.findings] == ["MG000", "MG000"]
    assert report.findings[0].message.startswith("mergegate.yaml:2: unknown key 'budgt'")
    assert report.findings[0].fix == "did you mean 'budget'?"


def test_an_expert_that_cannot_be_read(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.unreadable()
    pytester.runpytest(*ON)
    report = Report.model_validate_json(json.dumps(written(pytester)))
    assert report.status == "error"
    assert [(f.code, f.expert) for f in report.findings] == [("MG001", "b")]
    assert report.verdicts == ()


def test_an_error_beside_a_gate_that_passes(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing("a.mergegate.yaml")
    gates.unreadable("b.mergegate.yaml")
    pytester.runpytest(*ON)
    assert written(pytester)["status"] == "error"


def test_nothing_gated_is_no_pass(pytester: pytest.Pytester) -> None:
    pytester.runpytest(*ON)
    assert written(pytester)["status"] == "inconclusive"


def test_an_old_report_is_replaced(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    pytester.runpytest(*ON)
    gates.unreadable()
    pytester.runpytest(*ON)
    assert written(pytester)["status"] == "error"


def test_a_report_that_cannot_be_written(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    (pytester.path / "out").write_text("a file where a folder has to be")
    result = pytester.runpytest(*ON)
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["mergegate: the report *report.json could not be written (*)"])


def test_junit_and_properties(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.write(budget={CHEAP: 1.0, "max_mds": 0.5})
    result = pytester.runpytest(*ON, "--junitxml=junit.xml")
    result.assert_outcomes(failed=4)
    verdicts = written(pytester)["verdicts"]
    cases = {
        case.get("name"): case for case in ET.parse(pytester.path / "junit.xml").iter("testcase")
    }
    assert cases.keys() == {"a", "b", "c", "pool"}
    for name, case in cases.items():
        (found,) = (p for p in case.iter("property") if p.get("name") == "mergegate")
        data = json.loads(found.get("value", ""))
        assert data["status"] == "fail"
        judged = [(v["budget"], v["expert"], v["value"]) for v in data["verdicts"]]
        assert judged == [
            (v["budget"], v["expert"], v["value"])
            for v in verdicts
            if name in {"pool", v["expert"]}
        ]
