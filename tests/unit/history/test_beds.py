"""The beds of the validation card: what is drawn, gathered, noted and gated, without training."""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from beds import gating, minilm, skills, texts
from beds.notes import Notes

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.report.types import Report

NAMES = [f"e{k}" for k in range(10)]
INDEX = """\
Package: leo
Section: contrib/games
Tag: game::arcade, interface::graphical,
 role::program
Description: Shoot down the falling things

Package: libleo-doc
Section: doc
Description: falling things (documentation)
"""


def report(status: str = "fail", **more: Any) -> Report:
    empty = {"gate": "g", "created": "now", "versions": {}, "device": "cpu"}
    return Report.model_validate(empty | {"status": status, "seconds": {}, "settings": {}} | more)


def test_groups_are_seeded_all_different_and_as_many_as_there_are() -> None:
    groups = gating.groups_of(NAMES, {4: 10, 8: 4}, seed=7)
    assert groups == gating.groups_of(NAMES, {4: 10, 8: 4}, seed=7)
    assert groups != gating.groups_of(NAMES, {4: 10, 8: 4}, seed=8)
    assert Counter(map(len, groups)) == {4: 10, 8: 4}
    assert len(set(groups)) == 14
    assert all(list(group) == sorted(group) for group in groups)
    assert gating.groups_of(NAMES[:4], {4: 10, 8: 4}) == [tuple(NAMES[:4])]


def test_pairs_are_all_or_a_seeded_sample() -> None:
    every = list(combinations(NAMES, 2))
    assert gating.pairs_of(NAMES, None) == every == gating.pairs_of(NAMES, 45)
    sample = gating.pairs_of(NAMES, 20)
    assert sample == gating.pairs_of(NAMES, 20) == sorted(set(sample))
    assert len(sample) == 20
    assert sample != gating.pairs_of(NAMES, 20, seed=8)


def test_a_loss_at_the_limit_is_no_collapse() -> None:
    lost = (0.7 / 1.0 - 1) * 100
    assert lost < gating.COLLAPSE  # in floating point
    assert not gating.is_worse(lost, gating.COLLAPSE)
    assert gating.is_worse(-31.0, gating.COLLAPSE)


def test_gates_are_what_the_protocol_says(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    pair = gate_from(gating.gate_of(("a", "b"), "data"), root=tmp_path).spec
    four = gate_from(gating.gate_of(("a", "b", "c", "d"), "fresh"), root=tmp_path).spec
    assert (pair.certificate.per_task, four.certificate.per_task) == (64, 20)
    assert (pair.merge.surrogate, four.merge.surrogate) == ("always", "auto")
    assert [m.method for m in pair.merge.methods][:2] == ["linear", "slerp"]
    assert [m.method for m in four.merge.methods][:2] == ["linear", "karcher"]
    assert [m.method for m in pair.merge.methods][4:] == ["ties", "dare_ties"]


def test_a_pool_that_cannot_be_gated_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = {"code": "MG001", "severity": "error", "message": "it is not there"}
    finding |= {"expert": None, "fix": "put it there"}
    calls: list[str] = []

    def assess(gate: dict[str, Any], **_: object) -> Report:
        name = next(iter(gate["experts"]))
        calls.append(name)
        if name == "e1":
            raise GateError("no gate")
        return report("error", findings=[finding])

    monkeypatch.setattr(gating, "assess", assess)
    said = gating.gate_all(tmp_path, [("e0", "e2"), ("e1", "e2")], tell=lambda line: None)
    assert said["e0+e2"]["error"] == "MG001 it is not there"
    assert "no gate" in said["e1+e2"]["error"]
    assert said == json.loads((tmp_path / "gating.json").read_text())
    again = gating.gate_all(tmp_path, [("e0", "e2")], tell=lambda line: None)
    assert again["e0+e2"]["error"] == "MG001 it is not there"
    assert calls == ["e0", "e1"]


def test_reports_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "reports" / "a+b.data.json.gz"
    gating.write_report(report(), file)
    assert gating.read_report(file) == report()
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_notes_go_on_where_they_ended(tmp_path: Path) -> None:
    notes = Notes(tmp_path, {"seed": 1})
    notes.make_base(lambda: {"seed": 1})
    notes.add("good", (0.9, 0.1), seed=2)
    notes.add("weak", (0.79, 0.1), seed=3)
    notes.add("idle", (0.9, 0.7), seed=4)
    again = Notes(tmp_path, {"seed": 1})
    again.make_base(lambda: pytest.fail("the base is there"))
    assert again.missing(["good", "weak", "idle", "new"]) == ["new"]
    assert list(again.bed["experts"]) == ["good"]
    assert list(again.bed["left_out"]) == ["weak", "idle"]
    with pytest.raises(SystemExit, match="another recipe"):
        Notes(tmp_path, {"seed": 2})


def test_packages_bring_their_section_and_tags() -> None:
    leo, doc = texts.read_packages(INDEX)
    assert leo.text == "Shoot down the falling things"
    expected = {"section::games", "game::arcade", "interface::graphical", "role::program"}
    assert leo.marks == expected | {"source::package"}
    assert doc.marks == {"section::doc", "source::package"}


def test_docstrings_bring_their_module(tmp_path: Path) -> None:
    for folder in ("email", "test"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text(
            '"""Of the module."""\nclass A:\n    """Hold\n    it.\n\n    More."""\ndef f(): pass\n'
        )
    found = [text for text in texts.read_docstrings(tmp_path) if text.text]
    marks = frozenset({"source::docstring", "module::email"})
    assert found == [texts.Text(text="Hold it.", marks=marks)]


def test_siblings_serve_the_same_part() -> None:
    siblings = ("GNU R sums", "GNU R sums (documentation)", "gnu r sums - tools", "GNU R sums: x")
    assert len({texts.part_of(text) for text in siblings}) == 1
    parts = Counter(texts.part_of(f"text {k}") for k in range(1000))
    assert parts["train"] > 500
    assert min(parts["data"], parts["fresh"]) > 150


def test_labels_of_a_text_and_of_none() -> None:
    task = minilm.task("section", "games sound", "ab")
    marks = {"games": "a", "sound": "b"}
    for section, label in marks.items():
        text = texts.Text(text="t", marks=frozenset({f"section::{section}"}))
        assert task.label_of(text) == label
        assert task.relabelled("ba").label_of(text) != label
    both = texts.Text(text="t", marks=frozenset({"section::games", "section::sound"}))
    assert task.label_of(both) is None
    assert task.label_of(texts.Text(text="t", marks=frozenset())) is None


def test_no_training_row_is_held_out() -> None:
    found = [
        texts.Text(text=f"text number {k}", marks=frozenset({f"section::{section}"}))
        for k, section in enumerate(["science", "games", "sound", "mail"] * 400)
    ]
    parts = minilm.split("section", found)
    twin = minilm.split("section_twin", found)
    assert (len(parts["data"]), len(parts["fresh"])) == (100, 100)
    rows = [{text for text, _ in parts[part]} for part in ("data", "fresh", "train")]
    assert not rows[0] & rows[1]
    held_out = rows[0] | rows[1] | {t for p in ("data", "fresh") for t, _ in twin[p]}
    assert not held_out & rows[2]
    assert parts["data"] != twin["data"]
    with pytest.raises(SystemExit, match="100 are needed"):
        minilm.split("section", found[:200])


@pytest.mark.parametrize("bed", [minilm, skills])
def test_every_expert_is_in_one_family(bed: Any) -> None:
    names = [name for family in bed.FAMILIES.values() for name in family]
    assert sorted(names) == sorted(bed.recipe()["tasks"])


def test_swapped_answers_are_never_the_same() -> None:
    swapped, plain = minilm.TASKS["section_swapped"], minilm.TASKS["section"]
    assert all(plain.labels[name] != swapped.labels[name] for name in plain.labels)
    assert sorted(plain.labels.values()) == sorted(swapped.labels.values())
    words = ["abc", "abcdef"]
    for word in words:
        rules = [skills.BED.experts[f"long_{way}"].rule(word) for way in ("plus", "minus")]
        assert sorted(rules) == ["+", "-"]
