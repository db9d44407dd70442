"""``mergegate study``, as it is called."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from unit.history.registry.making import made
from unit.history.study.making import drawn_bed

from pytest_mergegate.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    path = tmp_path / "mergegate.registry.jsonl"
    path.write_text("".join(f"{line.to_json()}\n" for line in drawn_bed("drawn").lines))
    return path


def test_a_registry(registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "study.json", tmp_path / "figure.html"
    assert main(["study", str(registry), "--json", str(out), "--heatmap", str(page)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"Table {k}, " in said for k in range(1, 7))
    assert "Figure 1." in said
    found = json.loads(out.read_text())
    assert found["schema"] == "pytest-mergegate/study/1"
    (tables,) = found["beds"].values()
    assert list(tables) == [*(f"table_{k}" for k in range(1, 5)), "mantel", "table_5", "table_6"]
    assert len(tables["table_2"]["rows"]) == 8 * 4
    assert page.read_text().count("<table>") == 5


def test_the_beds_that_ship(capsys: pytest.CaptureFixture[str]) -> None:
    from pytest_mergegate.history.beds import bed_names

    assert main(["study"]) == 0
    said = capsys.readouterr().out
    assert bed_names()
    assert all(f"Table 1, {bed}." in said for bed in bed_names())


def test_the_papers_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--paper", "--json", str(tmp_path / "paper.json")]) == 0
    said = capsys.readouterr().out
    assert "p, printed" in said
    assert "-0.888  0.0033      0.0032" in said
    assert said.count("not among the data") == 2
    found = json.loads((tmp_path / "paper.json").read_text())
    assert len(found["paper"]["table_2"]["rows"]) == 120


def test_a_damaged_line_has_a_word(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with registry.open("a") as file:
        file.write('{"schema": "pytest-mergegate/reg')
    assert main(["study", str(registry)]) == 0
    told = capsys.readouterr().err
    assert "line " in told
    assert "Traceback" not in told


def test_one_merge_is_enough_to_be_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(made("ab", losses={"a": -5.0}).to_json() + "\n")
    assert main(["study", str(path)]) == 0
    said = capsys.readouterr().out
    assert "Fewer than four pairs" in said
    assert "Figure 1 takes three experts" in said
    assert "nan" not in said


@pytest.mark.parametrize("content", ["", made("ab", losses={"a": None, "b": None}).to_json()])
def test_nothing_recorded(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    assert main(["study", str(path)]) == 5
    assert "no merge with a measured loss" in capsys.readouterr().err


def test_what_cannot_be_done_is_one_line(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", str(tmp_path / "absent.jsonl")]) == 2
    assert main(["study", str(tmp_path)]) == 2
    assert main(["study", str(registry), "--json", str(tmp_path)]) == 1
    for wrong in (["--paper", str(registry)], ["--unknown"]):
        with pytest.raises(SystemExit) as caught:
            main(["study", *wrong])
        assert caught.value.code == 4
    assert "Traceback" not in capsys.readouterr().err
