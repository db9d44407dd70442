"""``mergegate calibrate``: what it says, what it could not use, and how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from unit.history.registry.making import made

from plugin.test_cli import mergegate
from pytest_mergegate.history.registry.appending import append_lines

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.history.registry.lines import RegistryLine


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recorded(pools: int, method: str = "linear") -> list[RegistryLine]:
    """Losses that follow the disagreement, and names that mean something to others."""
    rng = np.random.default_rng(0)
    found = []
    for k in range(pools):
        names = [f"[red]e{k % 7}|%s", f"e{k % 5}\x1b[31m", f"third {k}"]
        scores = {name: {"disagreement": float(rng.random()), "cosine": 0.5} for name in names}
        losses = {n: max(-100.0, -95 * s["disagreement"] + rng.normal()) for n, s in scores.items()}
        one = made("abc", method)
        experts = [
            expert.model_dump()
            | {"name": n, "fingerprint": n, "scores": scores[n], "loss": losses[n]}
            for expert, n in zip(one.experts, names, strict=True)
        ]
        found.append(made("abc", method, experts=experts))
    return found


def test_all_of_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_lines(here / "mergegate.registry.jsonl", recorded(30))
    append_lines(here / "other.jsonl", [*recorded(30)[:5], *recorded(6, "ties density=0.5")])
    arguments = ("calibrate", "mergegate.registry.jsonl", "other.jsonl")
    assert mergegate(*arguments, "--report", "--json=out/all.json") == 0
    said = capsys.readouterr()
    assert not said.err
    assert "\x1b" not in said.out
    assert max(map(len, said.out.splitlines())) <= 80
    lines = said.out.splitlines()
    assert lines[0].startswith("36 merges of 30 pools, 108 losses of ")
    assert any(line.startswith("expert [red]e0|%s ") for line in lines)
    assert any(line.startswith("method ties density=0.5 ") for line in lines)
    assert any(line.startswith("Left out pool by pool, ") for line in lines)
    assert any(line.split()[:2] == ["disagreement", "≥"] for line in lines)
    found = json.loads((here / "out" / "all.json").read_text("utf-8"))
    assert found["schema"] == "pytest-mergegate/calibration/1"
    assert found["merges"] == 36
    assert found["performances"]["disagreement"]["auroc"]["value"] == 1
    assert found["thresholds"]["mds"]["reason"] == "needs_more_collapses"


def test_too_little_to_say_anything(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mergegate("calibrate") == 5
    assert capsys.readouterr().err == "mergegate: there is no measured loss to calibrate on\n"
    append_lines(here / "mergegate.registry.jsonl", recorded(3))
    assert mergegate("calibrate") == 5
    said = capsys.readouterr().out
    assert "needs 9 recorded merges with disagreement, there are 3" in said
    assert mergegate("calibrate", "--confidence=0.6", "--miss-rate=0.5") == 0
    append_lines(here / "none.jsonl", [made("ab", losses={"a": None, "b": None})])
    assert mergegate("calibrate", "none.jsonl") == 5


def test_bad_lines_are_told_and_the_rest_is_used(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / "mergegate.registry.jsonl"
    append_lines(path, recorded(12))
    with path.open("a", encoding="utf-8") as file:
        file.write('<<<<<<< HEAD\n{"schema":"x\x1b[31m"}\n{"schema"')
    assert mergegate("calibrate") == 0
    said = capsys.readouterr()
    assert "12 merges" in said.out
    told = said.err.splitlines()
    assert [line.split(": ")[2] for line in told] == ["line 13", "line 14", "line 15"]
    assert "\x1b" not in said.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere.jsonl"], 2),
        (["."], 2),
        (["--miss-rate=0"], 4),
        (["--confidence=1"], 4),
        (["--confidence=nan"], 4),
        (["--score=agreement"], 4),
        (["--json=."], 4),
        (["--json=file/there.json"], 1),
    ],
)
def test_how_it_ends(
    here: Path, arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    append_lines(here / "mergegate.registry.jsonl", recorded(12))
    (here / "file").touch()
    assert mergegate("calibrate", *arguments) == code
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("mergegate")
    assert "Traceback" not in said


def test_every_recorded_score_is_the_same(here: Path) -> None:
    lines = [made(f"{a}{b}") for a in "abcd" for b in "efgh"]
    append_lines(here / "mergegate.registry.jsonl", lines)
    assert mergegate("calibrate", "--report") == 0
    assert mergegate("calibrate", "--score=kl") == 5


def test_merges_compared_in_different_ways_are_never_taken_together(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many of each, of which one half lost everything at no distance at all."""
    for comparison, loss in (("exact", -1.0), ("rouge_l", -90.0)):
        lines = [
            made(
                f"{one}{k}",
                losses={one: loss, str(k): loss - k / 100},
                scores={one: {"disagreement": 0.0}, str(k): {"disagreement": k / 10}},
                compared_by=comparison,
            )
            for k, one in enumerate("abcdefghij")
        ]
        append_lines(here / "mergegate.registry.jsonl", lines)
    assert mergegate("calibrate", "--json=exact.json") == 0
    said = capsys.readouterr().out
    assert "left out: 20 losses of answers compared by rouge_l: --compare rouge_l" in said
    assert mergegate("calibrate", "--compare=rouge_l", "--json=rouge.json") == 0
    assert "left out: 20 losses of answers compared by exact" in capsys.readouterr().out
    found = [json.loads((here / f"{name}.json").read_text("utf-8")) for name in ("exact", "rouge")]
    assert [one["compared_by"] for one in found] == ["exact", "rouge_l"]
    assert [(one["losses"], one["collapses"]) for one in found] == [(20, 0), (20, 20)]
    assert mergegate("calibrate", "--compare=ours:apart") == 5
    told = capsys.readouterr().err
    assert "no measured loss to calibrate on of answers that were compared by ours:apart" in told
    assert "20 losses of answers compared by rouge_l: --compare rouge_l" in told
