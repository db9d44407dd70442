"""The command line itself: help, versions, and errors in one line."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.cli import Parser, add_commands, main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def actions(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                for where, own in actions(command):
                    yield f"{name} {where}", own
        else:
            yield "/".join(action.option_strings) or str(action.dest), action


def test_every_option_has_help() -> None:
    parser = Parser(prog="mergegate")
    add_commands(parser)
    found = list(actions(parser))
    assert len(found) > 60
    assert not [where for where, action in found if not action.help]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("pytest-mergegate ")


def test_a_report_is_no_gate_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    report.write_text('{\n  "schema": "pytest-mergegate/report/1",\n  "status": "pass"}')
    assert main(["check", str(report), "--no-registry"]) == 2
    said = capsys.readouterr().out
    assert "this is no gate file, but what a gate's run wrote (pytest-mergegate/report/1)" in said
    assert "unknown key" not in said


@pytest.mark.parametrize("option", ["--cache", "--registry"])
def test_the_option_that_was_typed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    place = tmp_path / "place"
    place.touch() if option == "--cache" else place.mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["check", "mergegate.yaml", option, str(place)])
    assert ended.value.code == 4
    assert f"error: {option}: {place} is a f" in capsys.readouterr().err


def test_without_torch_the_command_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "mergegate.yaml"
    gate.write_text("base: base\nexperts: {a: a, b: b}\n")

    def lacking(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(sys.modules["pytest_mergegate.cli.plan"], "_planned", lacking)
    assert main(["plan", str(gate)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mergegate: PyTorch is not installed (fix: pip install torch")
