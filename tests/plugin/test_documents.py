"""Several documents in one file: each is a gate, by the command and by pytest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pools import copy_pool

from pytest_mergegate.cli import main
from pytest_mergegate.common.errors import GateFileError
from pytest_mergegate.common.files.yaml_files import documents_of
from pytest_mergegate.gate.discovery import refusals
from pytest_mergegate.gate.gatefile import load_gate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def file(tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mergekit file of two merges, with comments and an empty document."""
    folder = copy_pool(tiny_pool, tmp_path_factory.mktemp("documents") / "pool").parent
    models = [{"model": f"base+adapters/{n}", "parameters": {"weight": 0.5}} for n in "abc"]
    settings = {"probes": {"per_task": 3, "max_answer_tokens": 4}, "budget": {"max_mds": 1e9}}
    first = {"name": "one", "merge_method": "linear", "models": models, "mergegate": settings}
    second = {"merge_method": "ties", "base_model": "base", "models": models[:2]}
    second |= {"parameters": {"density": 0.5}, "mergegate": {**settings, "budget": {}}}
    path = folder / "merge.yml"
    texts = [yaml.safe_dump(part, sort_keys=False) for part in (first, second)]
    path.write_text(f"# two merges\n---\n{texts[0]}---\n{texts[1]}---\n")
    return path


def test_each_is_a_gate(file: Path) -> None:
    places = documents_of(file)
    assert [place.name for place in places] == ["merge.yml#1", "merge.yml#2"]
    gates = [load_gate(place) for place in places]
    assert [gate.spec.merge.methods[0].method for gate in gates] == ["linear", "ties"]
    assert [list(gate.spec.experts) for gate in gates] == [["a", "b", "c"], ["a", "b"]]
    assert gates[0].root == file.parent.resolve()
    line = file.read_text().splitlines().index("merge_method: ties") + 1
    assert gates[1].where("merge", "methods") == f"merge.yml:{line}"
    assert gates[1].name == "merge.yml#2"


def test_a_file_of_one_is_itself(tiny_pool: Path, tmp_path: Path) -> None:
    assert documents_of(tiny_pool) == [tiny_pool]
    (tmp_path / "x.yml").write_text("a: [\n")
    assert documents_of(tmp_path / "x.yml") == [tmp_path / "x.yml"]
    odd = tmp_path / "gate.yml#2"  # which is the name of a file
    odd.write_text("base: b\nexperts: {a: x, b: y}\n")
    assert load_gate(odd).spec.base == "b"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("merge.yml", "the file holds 2 documents, each a gate of its own (fix: name one of them"),
        ("merge.yml#3", "there is no document 3, the file holds 2"),
    ],
)
def test_which_of_them_is_meant(file: Path, place: str, says: str) -> None:
    with pytest.raises(GateFileError) as caught:
        load_gate(file.with_name(place))
    assert says in str(caught.value)


def run(file: Path, place: str, tmp_path: Path, *more: str) -> tuple[int, list[Any]]:
    out = tmp_path / "report.json"
    code = main(
        ["check", str(file.with_name(place)), "--no-cache", "--report", f"json:{out}", *more]
    )
    told = json.loads(out.read_text())
    return code, told if isinstance(told, list) else told.get("reports", [told])


def test_the_command_runs_each(file: Path, tmp_path: Path) -> None:
    code, reports = run(file, "merge.yml", tmp_path, "--stage", "hidden")
    assert [report["gate"].rpartition("/")[2] for report in reports] == [
        "merge.yml#1",
        "merge.yml#2",
    ]
    assert code == 1  # of which the second has too few experts for an MDS, or no budget of that
    _, (second,) = run(file, "merge.yml#2", tmp_path, "--stage", "hidden")
    assert [expert["name"] for expert in second["experts"]] == ["a", "b"]


def test_a_typo_is_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file.with_name("merge.yml#9")), "--no-cache"]) == 2
    assert "there is no document 9" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        main(["check", str(file.with_name("merg.yml#1"))])


def test_pytest_collects_each(file: Path, pytester: pytest.Pytester) -> None:
    common = ("--mergegate", "--mergegate-stage", "hidden", "--mergegate-no-cache")
    done = pytester.runpytest_inprocess(
        *common, "--mergegate-no-registry", "--collect-only", "-q", f"--rootdir={file.parent}", file
    )
    lines = [line for line in done.outlines if "::" in line]
    names = ["1::a", "1::b", "1::c", "1::pool", "2::a", "2::b", "2::pool"]
    assert [line.partition("::")[2] for line in lines] == names
    done = pytester.runpytest_inprocess(
        *common, "--mergegate-no-registry", f"--rootdir={file.parent}", f"{file}::1"
    )
    done.assert_outcomes(passed=4)


def test_what_they_name_is_claimed(file: Path) -> None:
    """A gate file that lies among the experts of any document is read as data."""
    lying = file.parent / "adapters" / "mergegate.yaml"
    lying.write_text("base: b\nexperts: {a: x, b: y}\n")
    team = file.with_name("team.mergegate.yaml")
    text = "base: base\nexperts: {a: adapters/a, b: adapters/b}\n"
    team.write_text(f"base: base\nexperts: {{c: other/c, d: other/d}}\n---\n{text}")
    try:
        refused = {path.name: why for path, why in refusals([lying], start=file.parent).items()}
        assert refused[lying.name] is not None
        assert "adapters/" in str(refused[lying.name])
    finally:
        lying.unlink()
        team.unlink()
