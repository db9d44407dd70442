"""The command ``mergegate``, and ``assess``: gates without pytest."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest

from plugin.gates import CHEAP
from pytest_mergegate import Report, assess
from pytest_mergegate.common.errors import GateFileError

if TYPE_CHECKING:
    from pathlib import Path

    from plugin.gates import Gates


def mergegate(*arguments: object) -> int:
    """Run the installed command; its exit code."""
    (command,) = entry_points(group="console_scripts", name="mergegate")
    try:
        return int(command.load()([str(argument) for argument in arguments]))
    except SystemExit as exit:
        return int(exit.code or 0)


class TestCheck:
    def test_folders_that_pytest_does_not_look_into(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.passing()
        for folder in (".hidden", "node_modules/x", "env/lib"):
            gates.failing(f"{folder}/mergegate.yaml")
        (pytester.path / "env" / "pyvenv.cfg").touch()
        assert mergegate("check", pytester.path) == 0

    @pytest.mark.parametrize(
        ("gate", "code"),
        [("passing", 0), ("failing", 1), ("undecided", 1), ("malformed", 2), ("unreadable", 2)],
    )
    def test_ends_as_pytest_does(
        self, pytester: pytest.Pytester, gates: Gates, gate: str, code: int
    ) -> None:
        path: Path = getattr(gates, gate)()
        assert mergegate("check", path) == code
        assert pytester.runpytest("--mergegate", path).ret == code

    def test_a_folder_and_several_files(
        self, gates: Gates, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gates.passing("sub/deep/mergegate.yaml")
        gates.failing("sub/b.mergegate.yaml")
        other = gates.passing("other.yaml")
        assert mergegate("check", "sub", other, "other.yaml") == 1
        statuses = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
        assert statuses.count("PASS") >= 2
        assert statuses.count("FAIL") == 1

    def test_an_error_weighs_more_than_a_failure(self, gates: Gates) -> None:
        gates.failing("a.mergegate.yaml")
        gates.unreadable("b.mergegate.yaml")
        assert mergegate("check", ".") == 2

    def test_caps_and_stage(self, gates: Gates) -> None:
        path = gates.write(budget={"max_mds": 1e9})
        assert mergegate("check", path) == 0
        assert mergegate("check", path, "--max-mds", "0") == 1
        assert mergegate("check", path, "--max-disagreement", "0") == 1
        assert mergegate("check", path, "--stage", "conflict") == 1

    def test_what_it_says(self, gates: Gates, capsys: pytest.CaptureFixture[str]) -> None:
        path = gates.write(budget={"max_mds": 0.5})
        mergegate("check", path)
        loud = capsys.readouterr().out
        mergegate("check", path, "-q")
        quiet = capsys.readouterr().out
        assert loud.startswith("FAIL mergegate.yaml: 3 of 3 experts over budget: a, b, c")
        assert "\na: MDS " in loud
        assert "\nwhy:\n  " in loud
        assert "nearest partner" not in loud  # behind -v
        assert "expert " in loud
        assert quiet.startswith("FAIL ")
        assert len(quiet.splitlines()) == 1

    def test_verbose_shows_the_table_of_a_gate_that_passes(
        self, gates: Gates, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = gates.passing()
        mergegate("check", path)
        assert len(capsys.readouterr().out.splitlines()) == 1
        mergegate("check", "-v", path)
        loud = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in loud if line.endswith("pass")] == ["a", "b", "c"]
        assert any(line.startswith("cache: ") for line in loud)
        mergegate("check", "-q", path)
        assert capsys.readouterr().out == ""

    def test_problems_come_with_their_lines(
        self, gates: Gates, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mergegate("check", gates.malformed())
        output = capsys.readouterr().out
        assert "mergegate.yaml:2: unknown key 'budgt' (fix: did you mean 'budget'?)" in output
        assert "mergegate.yaml:5: budget.max_mds: " in output

    def test_report(self, gates: Gates, pytester: pytest.Pytester) -> None:
        path = gates.failing()
        assert mergegate("check", path, "--report", "json:out.json") == 1
        report = Report.from_json((pytester.path / "out.json").read_text("utf-8"))
        assert report.status == "fail"

    def test_a_report_that_cannot_be_written(
        self, gates: Gates, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (pytester.path / "out").touch()
        assert mergegate("check", gates.passing(), "--report", "json:out/report.json") == 1
        assert "could not be written" in capsys.readouterr().err

    def test_nothing_to_gate(
        self, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert mergegate("check", pytester.path) == 5
        assert "no gate file found" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "arguments",
        [
            ["check"],
            ["frob"],
            ["check", "missing.yaml"],
            ["check", ".", "--stage", "deep"],
            ["check", ".", "--max-mds", "nan"],
            ["check", ".", "--max-disagreement", "1.5"],
            ["check", ".", "--report", "pdf"],
            ["check", ".", "--device", "tpu"],
            ["check", ".", "--executor", "slurm"],
            ["check", ".", "-v", "-q"],
        ],
    )
    def test_bad_options(
        self, arguments: list[str], gates: Gates, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gates.passing()
        assert mergegate(*arguments) == 4
        said = capsys.readouterr().err.splitlines()[-1]
        assert "mergegate" in said
        assert "--mergegate-" not in said


def test_run_as_a_module_it_gates_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest_mergegate.cli", "check", str(tmp_path / "none.yaml")]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_schema_describes_what_a_gate_file_may_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert mergegate("schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["required"] == ["experts"]
    assert schema["additionalProperties"] is False
    definitions = schema["$defs"]
    for name in schema["properties"]["budget"]["$ref"].split("/")[-1], "ExpertSpec", "MergeSpec":
        assert definitions[name]["additionalProperties"] is False
    # the short forms: a glob or bare paths for experts, a bare name for a method
    experts = schema["properties"]["experts"]["anyOf"]
    assert {"type": "string"} in experts
    by_name = next(form for form in experts if form["type"] == "object")
    assert {"type": "string"} in by_name["additionalProperties"]["anyOf"]
    methods = definitions["MergeSpec"]["properties"]["methods"]["items"]["anyOf"]
    assert {"type": "string"} in methods


class TestAssess:
    def test_a_file(self, gates: Gates) -> None:
        path = gates.passing()
        report = assess(path)
        assert isinstance(report, Report)
        assert (report.status, report.gate) == ("pass", str(path))
        assert assess(path, **{CHEAP: 0.0}).status == "fail"

    def test_a_mapping_beside_a_root(self, gates: Gates) -> None:
        gate = gates.spec(base="base", budget={CHEAP: 1.0})
        assert assess(gate, root=gates.shared.parent).status == "pass"
        assert assess(gate).status == "error"

    def test_the_stage_stops_it(self, gates: Gates) -> None:
        report = assess(gates.write(budget={"max_mds": 1e9}), stage="conflict")
        assert report.status == "inconclusive"
        assert report.pairs
        assert report.bounds is None

    def test_a_stage_that_is_none(self, gates: Gates) -> None:
        with pytest.raises(ValueError, match=r"stage must be one of preflight.*'deep'"):
            assess(gates.passing(), stage="deep")  # type: ignore[arg-type]

    def test_a_gate_that_cannot_be_understood(self, gates: Gates) -> None:
        with pytest.raises(GateFileError, match=r"mergegate\.yaml:2: unknown key 'budgt'"):
            assess(gates.malformed())

    def test_the_package_gives_the_function_whatever_was_imported_before(self) -> None:
        import pytest_mergegate.testing.session  # noqa: F401  # imports the pipeline
        from pytest_mergegate import assess as again

        assert again is assess
        assert callable(again)


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    """And no exit code 0: what was left to say is lost."""
    command = [sys.executable, "-m", "pytest_mergegate.cli", "schema"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.wait() == 2
        assert running.stderr.read() == ""
