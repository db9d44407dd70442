"""What is said to GitHub Actions: never green by mistake, and nothing in a name is obeyed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from github_runner import commands_in, read_outputs

from pytest_mergegate.cli import github, main
from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.report.types import (
    Collected,
    DiagnosisRecord,
    FindingRecord,
    Report,
    VerdictRecord,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = "::error::x\r\n::set-output name=status::pass\n##[add-mask]a,b=c:100%<script>|`"


def verdict(expert: str | None = "a", status: str = "fail", **more: Any) -> VerdictRecord:
    fields = {"budget": "max_loss", "limit": 10.0, "value": 50.0, "basis": "measured"}
    said = {"method": "linear", "message": f"{expert}: loss {status}", "line": 4}
    return VerdictRecord(**fields | said | {"expert": expert, "status": status} | more)


def report(status: str = "fail", gate: str = "mergegate.yaml", **more: Any) -> Report:
    fields: dict[str, Any] = {
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {},
        "device": "cpu",
        "seconds": {},
        "settings": {"stage": None},
    }
    return Report(**fields | {"status": status, "gate": gate} | more)


def collected(*reports: Report, complete: bool = True) -> Collected:
    return Collected(reports=reports, complete=complete)


class TestOutcome:
    def test_a_pass_is_one_in_the_report_and_in_the_exit_code(self) -> None:
        came = github.outcome(collected(report("pass")), exit_code=0, required=1)
        assert (came.status, came.exit_code, came.problem) == ("pass", 0, None)

    @pytest.mark.parametrize("status", ["fail", "inconclusive", "error"])
    def test_a_check_that_ended_well_does_not_outvote_its_report(self, status: str) -> None:
        came = github.outcome(collected(report(status)), exit_code=0, required=1)
        assert (came.status, came.exit_code) == (status, 1)
        assert came.problem

    def test_a_report_does_not_outvote_the_exit_code(self) -> None:
        came = github.outcome(collected(report("pass")), exit_code=137, required=1)
        assert (came.status, came.exit_code) == ("error", 137)

    @pytest.mark.parametrize("code", [0, 1, 2, 4, 5, 137])
    def test_no_report_is_an_error(self, code: int) -> None:
        came = github.outcome(None, exit_code=code, required=0)
        assert came.status == "error"
        assert came.exit_code == (code or 2)

    def test_fewer_gates_than_required(self) -> None:
        came = github.outcome(collected(report("pass")), exit_code=0, required=2)
        assert (came.status, came.exit_code) == ("error", 5)
        assert came.problem == "1 gate ran, and there must be 2"
        assert github.outcome(collected(), exit_code=0, required=1).exit_code == 5

    def test_where_no_change_concerns_a_gate_there_must_be_a_report_that_says_so(self) -> None:
        def came(found: Collected | None, code: int, since: str) -> tuple[str, int]:
            said = github.outcome(found, exit_code=code, required=2, since=since)
            return said.status, said.exit_code

        assert came(collected(), 0, "main") == ("inconclusive", 0)
        assert came(None, 0, "main") == ("error", 2)
        assert came(collected(), 1, "main") == ("error", 1)
        assert came(collected(), 0, "") == ("error", 5)
        assert came(collected(complete=False), 0, "main") == ("error", 5)
        assert came(collected(report("pass")), 0, "main") == ("pass", 0)
        assert came(collected(report("fail")), 1, "main") == ("fail", 1)

    def test_a_run_that_lost_a_gate(self) -> None:
        lost = collected(report("pass"), complete=False)
        assert github.outcome(lost, exit_code=0, required=1).exit_code == 1

    def test_preflight_alone_judges_nothing_and_may_end_well(self) -> None:
        sound = collected(
            report(
                "inconclusive",
                settings={"stage": "preflight"},
                verdicts=[verdict(status="inconclusive")],
            )
        )
        came = github.outcome(sound, exit_code=0, required=1)
        assert (came.status, came.exit_code, came.problem) == ("inconclusive", 0, None)
        assert came.note
        assert github.worst_expert(sound) is None


class TestAnnotations:
    def test_one_for_each_expert_with_its_cause(self, tmp_path: Path) -> None:
        cause = DiagnosisRecord(
            expert="a", cause="b", nearest="b", farthest="c", cures=("leave it out",)
        )
        echo = FindingRecord(code="MG401", severity="error", expert="a", message="b", fix="")
        failed = report(
            gate=str(tmp_path / "sub" / "mergegate.yaml"),
            verdicts=[verdict(), verdict(budget="max_mds"), verdict("b", "pass", line=5)],
            diagnoses=[cause],
            findings=[echo],
        )
        (said,) = github.annotate(collected(failed), tmp_path)
        assert (said.level, said.file, said.line) == ("error", "sub/mergegate.yaml", 4)
        assert said.title == "a: over budget"
        assert said.message.count("a: loss fail") == 2
        assert "likely cause: b" in said.message

    def test_the_undecided_and_the_pool(self, tmp_path: Path) -> None:
        open_ones = [verdict("a", "inconclusive", value=None), verdict(None, value_infinite=True)]
        said = github.annotate(collected(report(verdicts=open_ones)), tmp_path)
        assert [a.title for a in said] == ["the pool: over budget", "a: undecided"]

    def test_findings(self, tmp_path: Path) -> None:
        levels = ("error", "warning", "note")
        found = [
            FindingRecord(code=f"MG10{k}", severity=s, expert="a", message="m", fix="f", line=k)
            for k, s in enumerate(levels, 1)
        ]
        said = github.annotate(collected(report("error", findings=found)), tmp_path)
        assert [(a.level, a.line) for a in said] == [("error", 1), ("warning", 2)]
        assert said[0].message == "m\nfix: f"

    def test_an_error_without_a_finding_is_said_too(self, tmp_path: Path) -> None:
        (said,) = github.annotate(collected(report("error")), tmp_path)
        assert said.level == "error"

    def test_preflight_alone_warns_of_no_verdict(self, tmp_path: Path) -> None:
        undecided = verdict("a", "inconclusive", value=None)
        sound = report("inconclusive", settings={"stage": "preflight"}, verdicts=[undecided])
        assert github.annotate(collected(sound), tmp_path) == ()

    def test_no_more_than_github_shows(self, tmp_path: Path) -> None:
        many = [verdict(f"e{k}", value=100.0 - k) for k in range(60)]
        said = github.annotate(collected(report(verdicts=many)), tmp_path)
        assert len(said) == 10
        assert said[0].title == "e0: over budget"
        assert said[-1].message.startswith("and 51 more")
        assert "e59" in said[-1].message

    def test_a_gate_outside_the_checkout_has_no_file(self, tmp_path: Path) -> None:
        outside = report(gate=str(tmp_path / "mergegate.yaml"), verdicts=[verdict()])
        (said,) = github.annotate(collected(outside), tmp_path / "checkout")
        assert (said.file, "line=" in str(said)) == (None, False)

    def test_nothing_in_a_name_is_obeyed(self, tmp_path: Path) -> None:
        gate = str(tmp_path / "a,b:%0A\n::warning::.yaml")
        name = HOSTILE
        said = github.annotate(collected(report(gate=gate, verdicts=[verdict(name)])), tmp_path)
        (read,) = commands_in("".join(f"{a}\n" for a in said).splitlines())
        assert read.name == "error"
        assert read.properties["title"] == clean(f"{name}: over budget")
        assert read.properties["file"] == "a,b:%0A\n::warning::.yaml"
        assert read.data == "\n".join(map(clean, f"{name}: loss fail".split("\n")))
        assert read.data.replace("\n", "").isprintable()


class TestWorstExpert:
    def test_the_furthest_over_its_limit(self) -> None:
        first = report(verdicts=[verdict("a", value=11.0), verdict("b", value=30.0)])
        second = report(verdicts=[verdict("c", value=20.0), verdict("d", "pass", value=9.9)])
        assert github.worst_expert(collected(first, second)) == "b"

    def test_an_infinite_one(self) -> None:
        both = [verdict("a"), verdict("b", value=None, value_infinite=True)]
        assert github.worst_expert(collected(report(verdicts=both))) == "b"

    def test_the_nearest_to_its_limit_where_all_pass(self) -> None:
        both = [verdict("a", "pass", value=1.0), verdict("b", "pass", value=9.0)]
        assert github.worst_expert(collected(report("pass", verdicts=both))) == "b"

    def test_the_one_that_could_not_be_read(self) -> None:
        found = [FindingRecord(code="MG102", severity="error", expert="x", message="", fix="")]
        broken = report("error", findings=found, verdicts=[verdict("a")])
        assert github.worst_expert(collected(report(verdicts=[verdict("b")]), broken)) == "x"

    def test_none(self) -> None:
        assert github.worst_expert(collected(report("error"))) is None


def test_outputs_hold_what_they_are_given() -> None:
    values = {"status": "pass", "worst-expert": f"{HOSTILE}\nstatus=pass\nx<<y\nz"}
    read = read_outputs(github.output_text(values))
    assert read == values | {"worst-expert": values["worst-expert"].replace("\r\n", "\n")}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Runs the command on the report in the folder; its outputs, and the rest in files."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    for name in ("STEP_SUMMARY", "OUTPUT"):
        monkeypatch.setenv(f"GITHUB_{name}", str(tmp_path / name))

    def run(*options: str, code: int = 0) -> dict[str, str]:
        assert main(["github", str(tmp_path), f"--exit-code={code}", *options]) == 0
        return read_outputs((tmp_path / "OUTPUT").read_text(encoding="utf-8"))

    return run


class TestCommand:
    @pytest.mark.parametrize(
        "text",
        [None, "", "{", "[]", "{}", '{"schema": "pytest-mergegate/report/1"}', "\xff", "NaN"],
    )
    def test_a_report_that_is_missing_or_cut_short(
        self, told: Callable[..., dict[str, str]], tmp_path: Path, text: str | None,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        if text is not None:
            (tmp_path / "mergegate-report.json").write_text(text, encoding="latin-1")
        outputs = told("--pull-request=7")
        assert (outputs["status"], outputs["exit-code"]) == ("error", "2")
        assert outputs["cache-changed"] == "true"
        assert capsys.readouterr().out.startswith("::error title=merge gates::the check wrote no")
        assert "error" in (tmp_path / "STEP_SUMMARY").read_text()
        assert "error" in (tmp_path / "comment" / "comment.md").read_text()

    def test_a_pass(self, told: Callable[..., dict[str, str]], tmp_path: Path) -> None:
        passed = report("pass", verdicts=[verdict("a", "pass")])
        (tmp_path / "mergegate-report.json").write_text(passed.to_json())
        (tmp_path / "mergegate-report.html").touch()
        outputs = told(f"--html={tmp_path / 'report.html'}", "--pull-request=")
        assert outputs == {
            "status": "pass",
            "exit-code": "0",
            "worst-expert": "a",
            "report-path": str(tmp_path / "report.html"),
            "sarif-path": "",
            "cache-changed": "false",
        }
        summary = (tmp_path / "STEP_SUMMARY").read_text(encoding="utf-8")
        assert "Merge gates: pass" in summary
        assert "This run" not in summary
        assert not (tmp_path / "comment").exists()

    def test_texts_too_long_for_github(
        self, told: Callable[..., dict[str, str]], tmp_path: Path
    ) -> None:
        many = [verdict(f"expert {k} 界", message="界" * 900) for k in range(600)]
        (tmp_path / "mergegate-report.json").write_text(report(verdicts=many).to_json())
        told("--pull-request=7", code=137)
        for path, limit in (("STEP_SUMMARY", (1 << 20) - 1), ("comment/comment.md", 65_000)):
            kept = (tmp_path / path).read_bytes()
            assert limit * 0.7 < len(kept) <= limit
            assert "expert 0 界" in kept.decode()

    @pytest.mark.parametrize("number", ["7; rm -rf /", "-1", "٣", "7\n8"])
    def test_what_is_no_pull_request(self, told: Callable[..., object], number: str) -> None:
        with pytest.raises(SystemExit, match="4"):
            told(f"--pull-request={number}")

    def test_elsewhere_than_on_github(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
        with pytest.raises(SystemExit, match="4"):
            main(["github", str(tmp_path), "--exit-code=0"])
        assert "GITHUB_WORKSPACE is not set" in capsys.readouterr().err


def test_one_report_of_many(tmp_path: Path) -> None:
    """The worst of a run that the JSON report lists, read as the command reads it."""
    from pytest_mergegate.report.formats.json import read_reports, render

    both = collected(report("pass"), report("fail", verdicts=[verdict()]))
    found = read_reports(render(both), tmp_path)
    assert json.loads(render(both))["status"] == "fail"
    assert github.outcome(found, exit_code=1, required=2).status == "fail"
