"""``mergegate report``: from a JSON report to other formats."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.cli import main
from pytest_mergegate.gate import option_table
from pytest_mergegate.report.types import Report

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A report of a gate that could not be decided."""
    found = Report(
        status="inconclusive",
        gate="mergegate.yaml",
        created="2026-01-01T00:00:00+00:00",
        versions={},
        device="cpu",
        seconds={},
        settings={},
    )
    path = tmp_path / "report.json"
    path.write_text(found.to_json(), "utf-8")
    return path


def test_it_writes_html_whatever_the_verdict(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out.html"
    assert main(["report", str(report), "--html", str(out)]) == 0
    assert out.read_text("utf-8").startswith("<!doctype html>")
    assert str(out) in capsys.readouterr().out


def test_it_does_not_import_torch(report: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pytest_mergegate.cli import main; "
        f"main(['report', {str(report)!r}, '--html', {str(tmp_path / 'o.html')!r}]); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert (tmp_path / "o.html").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ('{"schema": "pytest-mergegate/report/1", "status": "pa', "Unterminated string"),
        ("[]", "it has no schema"),
        ('{"a": 1}', "it has no schema"),
        ('{"schema": "pytest-mergegate/report/2"}', "schema: Input should be"),
        ('{"schema": "pytest-mergegate/report/1"}', "status: Field required"),
        ('{"schema": "pytest-mergegate/reports/1", "reports": 5}', "not iterable"),
        ('{"schema": "pytest-mergegate/reports/1", "reports": [5]}', "Input should be"),
        ("[" * 100_000, "nested too deeply"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_what_is_no_report_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["report", str(path), "--html", str(tmp_path / "out.html")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mergegate: {path} is no report of pytest-mergegate (")
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.html").exists()


def test_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "none.json"), "--html", "out.html"]) == 2
    assert "cannot be read (No such file or directory)" in capsys.readouterr().err


def test_nothing_to_write(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["report", str(report)])
    assert left.value.code == 4
    assert "--html, --markdown, --sarif" in capsys.readouterr().err


def test_a_place_that_cannot_be_written(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(report), "--html", str(report / "out.html")]) == 1
    assert "could not be written" in capsys.readouterr().err


@pytest.fixture
def _no_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    found = option_table.find_spec
    monkeypatch.setattr(
        option_table, "find_spec", lambda name: None if name == "plotly" else found(name)
    )


@pytest.mark.usefixtures("_no_plotly")
def test_a_missing_extra(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["report", str(report), "--html", "out.html"])
    assert left.value.code == 4
    assert "pip install 'pytest-mergegate[html]'" in capsys.readouterr().err


def test_a_missing_extra_stops_pytest_before_anything_is_computed(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(
        "import pytest_mergegate.gate.option_table as s\n"
        "s.find_spec = lambda name: None if name == 'plotly' else name\n"
    )
    result = pytester.runpytest_subprocess("--mergegate", "--mergegate-report=html:out.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*pip install 'pytest-mergegate?html?'*"])
