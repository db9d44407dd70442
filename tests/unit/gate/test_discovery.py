"""Gate files that were found: which of them lie where strangers write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.gate.discovery import gates_below, refusals

if TYPE_CHECKING:
    from pathlib import Path

MERGEKIT = "merge_method: linear\nmodels: [{model: base+x/a}, {model: base+y/a}]\n"


def refused(root: Path) -> set[str]:
    """The folders of those that are refused, where the command was started in ``root``."""
    found = refusals(gates_below(root), start=root)
    return {file.parent.relative_to(root).as_posix() for file in found}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a gate file in each of some folders."""
    for folder in (".git", "given", "own", "data", "other", "x", "y/a"):
        (tmp_path / folder).mkdir(parents=True)
        if folder != ".git":
            (tmp_path / folder / "mergegate.yaml").write_text("experts: {}\n", "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("more", "folders"),
    [
        ("", set()),
        ("mergegate: {examples: 'given/{name}.jsonl'}\n", {"given"}),
        ("mergegate: {experts: {x-a: {examples: own/a.jsonl}}}\n", {"own"}),
        # what is wrong with the file takes its models' folders from nobody
        ("mergegate: {examples: 'given/{name}.jsonl'}\nunknown: 1\n", set()),
    ],
    ids=str,
)
def test_folders_that_a_mergekit_file_names(root: Path, more: str, folders: set[str]) -> None:
    (root / "mergegate.yaml").write_text(MERGEKIT + more, "utf-8")
    assert refused(root) == folders | {"x", "y/a"}


def test_examples_that_a_mergekit_file_finds_by_their_place(root: Path) -> None:
    (root / "mergegate.yaml").write_text(MERGEKIT, "utf-8")
    (root / "data/x-a.jsonl").touch()
    assert refused(root) == {"data", "x", "y/a"}
