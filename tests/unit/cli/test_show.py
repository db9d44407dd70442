"""``mergegate show``: the cases of one expert out of a report, or why there are none."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hostile import GOLDEN, assert_plain
from report.formats.made import error, report, run, with_cases
from rich.cells import cell_len

from pytest_mergegate.cli import main
from pytest_mergegate.common.plain_text import quoted_lines
from pytest_mergegate.report.formats import json

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.report.types import Report

KEPT = {"certificate": {"shown": 3}}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a report will be; the page has 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "report.json"


def made(**given: Any) -> Report:
    """A gate with two cases of every expert under two merges."""
    return with_cases(report(settings=KEPT, **given), 2)


def write(file: Path, *reports: Report) -> str:
    """The file, which holds them."""
    file.write_text(json.render(run(*reports)), "utf-8")
    return str(file)


def usage(*arguments: str) -> int:
    """The exit code of a command that is used wrongly."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def test_a_mean_distance_is_called_one(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = made().model_dump()
    for merge in data["merges"]:
        for own in merge["experts"]:
            own["compared_by"] = "rouge_l"
    assert main(["show", write(file, type(made()).model_validate(data)), "shout"]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said.endswith("disagreement 1 on 64 inputs, the mean distance by rouge_l; the 2 worst:")


def test_every_case_under_every_merge(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", write(file, made()), "shout"]) == 0
    said = capsys.readouterr().out
    assert said.count("shout 0") == said.count("shout 1") == 2
    assert said.splitlines()[:7] == [
        "shout under linear, the judged merge: disagreement 1 on 64 inputs; the 2 worst:",
        "",
        "input         shout 0",
        "expert  1.00  own",
        "merge   0.00  other",
        "",
        "input         shout 1",
    ]
    assert "\nshout under ties density=0.5: disagreement 1 on 64 inputs" in said
    assert "rotate" not in said


@pytest.mark.parametrize("method", ["ties", "ties density=0.5"])
def test_under_one_merge(file: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    assert main(["show", write(file, made()), "shout", "--method", method]) == 0
    said = capsys.readouterr().out
    assert said.startswith("shout under ties density=0.5: ")
    assert "linear" not in said


def test_whole_texts(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "\n".join(" ".join(["word"] * 40) for _ in range(3))
    said = with_cases(report(settings=KEPT), 1, expert=long, merged=f"{long}!")
    assert main(["show", write(file, said), "shout", "--method", "linear"]) == 0
    out = capsys.readouterr().out
    assert out.count("word") == 240
    assert max(map(cell_len, out.splitlines()[2:])) <= 80


@pytest.mark.parametrize("text", GOLDEN.values(), ids=GOLDEN)
def test_nothing_in_it_steers_a_terminal(
    file: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    quoted = quoted_lines(text)
    found = with_cases(report(settings=KEPT), 1, expert=quoted, merged=f"{quoted}!", target=quoted)
    assert main(["show", write(file, found), "shout"]) == 0
    assert_plain(capsys.readouterr().out)


def test_several_gates(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(file, made(), made(gate="gates/other.mergegate.yaml"), error())
    assert main(["show", path, "shout", "--method", "linear"]) == 0
    said = capsys.readouterr().out
    assert "gate gates/pool.mergegate.yaml\nshout under linear" in said
    assert "gate gates/other.mergegate.yaml\nshout under linear" in said


def test_an_expert_that_is_not_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert usage("show", write(file, made()), "shuot") == 4
    said = capsys.readouterr().err
    assert "the report has no expert 'shuot' (fix: did you mean 'shout'?)" in said
    assert usage("show", str(file), "x") == 4
    assert "its experts: rotate, first_last, reverse, shout" in capsys.readouterr().err


def test_a_merge_that_is_not_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert usage("show", write(file, made()), "shout", "--method", "lineal") == 4
    said = capsys.readouterr().err
    assert "--method: there is no merge by 'lineal' (fix: did you mean 'linear'?)" in said


def test_a_gate_that_could_not_be_computed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert usage("show", write(file, error()), "shout") == 4
    said = capsys.readouterr().err
    assert "no experts, as no gate was computed: MG001 b: there is no directory" in said


def test_text_that_is_kept_out_of_reports(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(file, report(settings={"certificate": {"shown": 0}}))
    assert main(["show", path, "shout"]) == 5
    out, said = capsys.readouterr()
    assert out == ""
    assert said.startswith("mergegate: gates/pool.mergegate.yaml: answers changed, and the gate ")
    assert "set certificate.shown in the gate file" in said


def test_a_stage_that_was_not_reached(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", write(file, made(merges=())), "shout"]) == 5
    said = capsys.readouterr().err
    assert "no merge was compared with the expert" in said
    assert "--stage merge" in said
    assert main(["show", str(file), "shout", "--method", "linear"]) == 5


def test_a_baseline_holds_none(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {"certificate": {"per_task": 64}}
    assert main(["show", write(file, report(settings=kept)), "shout"]) == 5
    assert "a baseline, or of a version that kept no cases" in capsys.readouterr().err


def test_nothing_changed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = report(settings=KEPT).model_dump()
    for merge in data["merges"]:
        for expert in merge["experts"]:
            expert["disagreement"] = 0.0
    assert main(["show", write(file, report().model_validate(data)), "shout"]) == 0
    said = capsys.readouterr().out
    assert "shout under linear, the judged merge: no answer changed, of 64 inputs\n" in said


def test_no_changed_answer_was_decoded(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", write(file, report(settings=KEPT)), "shout"]) == 0
    assert "disagreement 1, and no changed answer was decoded" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "said"), [("{}", "it has no schema"), (None, "cannot be read")])
def test_no_report(
    file: Path, capsys: pytest.CaptureFixture[str], text: str | None, said: str
) -> None:
    if text is not None:
        file.write_text(text)
    assert main(["show", str(file), "shout"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_it_does_not_import_torch(file: Path) -> None:
    arguments = ["show", write(file, made()), "shout"]
    code = (
        "import sys; from pytest_mergegate.cli import main; "
        f"main({arguments!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
