"""Losses that were measured are kept, once, and nothing hangs on that."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pools import read_gate, write_gate

from plugin.test_cli import mergegate
from pytest_mergegate.history.registry.reading import read_registry

if TYPE_CHECKING:
    from pathlib import Path

    from plugin.gates import Gates

pytestmark = pytest.mark.slow

NAME = "mergegate.registry.jsonl"
METRIC = """
def perfect(outputs, targets):
    return [1.0] * len(outputs)
"""
METHODS = {"methods": ["linear", {"method": "task_arithmetic", "weight": 0.5}]}


@pytest.fixture
def measuring(pytester: pytest.Pytester, gates: Gates) -> Path:
    """A gate that measures the losses of two merges; on few examples, so that it is undecided."""
    pytester.makepyfile(metric=METRIC)
    pytester.makeini("[pytest]\nmergegate_on_inconclusive = warn")
    experts = {name: gates.expert(name, metric="metric:perfect") for name in "abc"}
    return gates.write(budget={"max_loss": 1.0}, merge=METHODS, experts=experts)


def labels(path: Path) -> list[str]:
    found = read_registry(path)
    assert found.exists
    assert not found.problems
    return [line.label for line in found.lines]


@pytest.mark.parametrize("workers", [(), ("-n2",)])
@pytest.mark.usefixtures("measuring")
def test_appended_once(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    file = pytester.path / NAME
    assert pytester.runpytest("--mergegate", *workers).ret == pytest.ExitCode.OK
    assert labels(file) == ["linear", "task_arithmetic weight=0.5"]
    before = file.read_bytes()
    assert pytester.runpytest("--mergegate", *workers).ret == pytest.ExitCode.OK
    assert file.read_bytes() == before


def test_what_is_written_is_said_and_nothing_in_ci_or_quietly(
    pytester: pytest.Pytester,
    measuring: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = pytester.path / NAME
    assert mergegate("check", measuring, "-q") == 1
    assert pytester.runpytest("--mergegate", "-q").ret == pytest.ExitCode.OK
    monkeypatch.setenv("CI", "true")
    assert mergegate("check", measuring) == 1
    assert not file.exists()
    assert mergegate("check", measuring, "-q", f"--registry={NAME}") == 1  # asked for
    assert len(labels(file)) == 2
    file.unlink()
    result = pytester.runpytest("--mergegate", "-o", f"mergegate_registry={NAME}")
    told = f"wrote the measured losses of 2 merges to {NAME}"
    result.stdout.fnmatch_lines([f"{told}*"])
    assert len(labels(file)) == 2
    file.unlink()
    monkeypatch.delenv("CI")
    capsys.readouterr()
    assert mergegate("check", measuring) == 1
    assert told in capsys.readouterr().out


def test_the_command_writes_the_same_lines(pytester: pytest.Pytester, measuring: Path) -> None:
    assert mergegate("check", measuring) == 1  # undecided
    assert len(labels(pytester.path / NAME)) == 2
    assert mergegate("check", measuring, "--registry=kept/other.jsonl") == 1
    one, other = (
        [line.model_dump(exclude={"created"}) for line in read_registry(path).lines]
        for path in (pytester.path / NAME, pytester.path / "kept/other.jsonl")
    )
    assert one == other


def test_a_line_says_what_the_report_says(
    pytester: pytest.Pytester, gates: Gates, measuring: Path
) -> None:
    """How answers were compared, token by token too, and what is kept of the gain."""
    settings = read_gate(measuring)
    settings["experts"]["b"]["compare"] = "rouge_l"
    write_gate(measuring, settings)
    assert mergegate("check", measuring, "--report=json:report.json") == 1
    report = json.loads((pytester.path / "report.json").read_text("utf-8"))
    lines = read_registry(pytester.path / NAME).lines
    assert [line.label for line in lines] == [merge["method"] for merge in report["merges"]]
    for line, merge in zip(lines, report["merges"], strict=True):
        assert [expert.compared_by for expert in line.experts] == ["exact", "rouge_l", "exact"]
        for expert, told in zip(line.experts, merge["experts"], strict=True):
            assert told["compared_by"] == expert.compared_by
            assert told["token_agreement"] is not None
            for score in ("token_agreement", "total_variation", "kl"):
                assert expert.scores[score] == pytest.approx(told[score], rel=1e-5)
            assert expert.gain_kept == told["gain_kept"] is None
            assert told["gain_kept_reason"] == "expert_gains_nothing"  # all score 1


def test_where_it_is_kept(pytester: pytest.Pytester, measuring: Path) -> None:
    pytester.makeini("[pytest]\nmergegate_on_inconclusive = warn\nmergegate_registry = ini.jsonl")
    sub = pytester.mkdir("sub")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(sub)
        pytester.runpytest("--mergegate", "--rootdir=..", "-c../tox.ini", measuring)
        assert len(labels(pytester.path / "ini.jsonl")) == 2
        pytester.runpytest(
            "--mergegate", "--mergegate-registry=own.jsonl", "-c../tox.ini", measuring
        )
        assert len(labels(sub / "own.jsonl")) == 2
    assert not (pytester.path / NAME).exists()


@pytest.mark.usefixtures("measuring")
@pytest.mark.parametrize(
    "options", [["--mergegate-no-registry"], ["--collect-only"], ["--mergegate-stage=hidden"]]
)
def test_nothing_to_keep(pytester: pytest.Pytester, options: list[str]) -> None:
    pytester.runpytest("--mergegate", *options)
    assert not (pytester.path / NAME).exists()


def test_a_gate_in_error_keeps_nothing(pytester: pytest.Pytester, measuring: Path) -> None:
    pytester.makepyfile(metric="def perfect(outputs, targets):\n    raise OSError\n")
    assert pytester.runpytest("--mergegate", measuring).ret == pytest.ExitCode.INTERRUPTED
    assert mergegate("check", measuring) == 2
    assert not (pytester.path / NAME).exists()


def test_what_cannot_be_written_is_said_and_changes_no_verdict(
    pytester: pytest.Pytester, measuring: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pytester.path / "file").touch()
    result = pytester.runpytest("--mergegate", "--mergegate-registry=file/registry.jsonl")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*file/registry.jsonl: the registry * (Not a directory)*"])
    assert mergegate("check", measuring, "--registry=file/registry.jsonl", "-q") == 1
    assert "registry.jsonl: the registry" in capsys.readouterr().err


@pytest.mark.usefixtures("measuring")
def test_a_folder_is_a_bad_option(pytester: pytest.Pytester) -> None:
    pytester.mkdir("folder")
    result = pytester.runpytest("--mergegate", "--mergegate-registry=folder")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*folder is a folder; name a file in it"])
    assert mergegate("check", ".", "--registry=folder") == 4
