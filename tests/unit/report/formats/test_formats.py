"""A format is its module and its row of the table, and nothing else knows it by name."""

from __future__ import annotations

import csv
import io
import sys
from importlib import import_module, reload
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hostile import COMMAND

from pytest_mergegate.cli import main
from pytest_mergegate.cli import report as report_command
from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.gate import options as formats
from pytest_mergegate.gate.option_table import Given, parse_report
from pytest_mergegate.report import formats as modules
from pytest_mergegate.report.formats import json
from pytest_mergegate.report.formats.numbers import columns
from pytest_mergegate.report.run_end import write_report
from report.formats.made import NAMES, report, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_mergegate.report.types import Collected


def render(reports: Collected) -> str:
    """The table of experts of every gate, as comma-separated values."""
    page = io.StringIO()
    for one in reports.reports:
        shown = columns(one)
        rows = csv.writer(page)
        rows.writerow(["expert", *(column.title for column in shown)])
        rows.writerows([name, *(c.cells[name] for c in shown)] for name in one.expert_names)
    return page.getvalue()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The format ``csv``: a module, and a row of the table."""
    module = ModuleType(f"{modules.__name__}.csv")
    module.render = render  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with monkeypatch.context() as patched:
        patched.setitem(formats.FORMATS, "csv", formats.Format(ending="csv"))
        reload(report_command)  # its options are read off the table once
        yield
    reload(report_command)


def read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.usefixtures("toy")
def test_a_new_format_is_written_where_reports_are(tmp_path: Path) -> None:
    target = parse_report(Given("csv", "--report", tmp_path))
    assert target.path.name == "mergegate-report.csv"
    write_report(run(report()), target)
    head, *rows = read(target.path)
    assert head == ["expert", "disagreement", "loss", "score", "verdict"]
    assert [(row[0], row[-1]) for row in rows] == list(
        zip(NAMES, ("pass", "pass", "pass", "fail"), strict=True)
    )


@pytest.mark.usefixtures("toy")
def test_a_new_format_is_an_option_of_the_command(tmp_path: Path) -> None:
    kept, out = tmp_path / "report.json", tmp_path / "out.csv"
    kept.write_text(report().to_json(), encoding="utf-8")
    assert main(["report", str(kept), f"--csv={out}"]) == 0
    assert len(read(out)) == 1 + len(NAMES)


@pytest.mark.usefixtures("toy")
def test_a_new_format_is_named_among_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"available: .*csv"):
        parse_report(Given("tsv", "--report", tmp_path))


@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_format_of_the_table_has_its_module(name: str) -> None:
    made = import_module(f"{modules.__name__}.{name}").render(run(report()))
    assert isinstance(made, str)
    assert made.endswith(("\n", "</html>"))


def test_a_format_that_needs_more_says_what_brings_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    poor = formats.Format(ending="html", needs=("no_such_module",))
    monkeypatch.setitem(formats.FORMATS, "html", poor)
    with pytest.raises(UsageError, match=r"pip install 'pytest-mergegate\[html\]'"):
        parse_report(Given("html", "--report", tmp_path))


def test_json_is_no_command_to_a_ci_and_reads_the_same() -> None:
    said = "x ##[error]forged ##vso[task.x]y \\##[z] ::error::w"
    made = report(settings={"said": said})
    for text in (json.render(run(made)), json.render_all(run(made))):
        assert not COMMAND.search(text)
        assert json.read_reports(text).reports[0].settings == {"said": said}
