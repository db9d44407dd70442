"""Repositories within the repository, whose settings would have git run a program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from unit.history.registry.making import made

import pytest_mergegate
from pytest_mergegate.cli.changed_since import GitError, changes_since
from pytest_mergegate.common.files.repository import run_git, top_of
from pytest_mergegate.history.registry.appending import append_lines
from untrusted.asking import asked, embedded
from untrusted.checkouts import git, mergegate


@pytest.fixture
def repository(work_tree: Path) -> Path:
    """The repository of these tests."""
    return work_tree


def test_an_embedded_repository_is_live(repository: Path, payload: str, marker: Path) -> None:
    git(embedded(repository, payload), "status")
    assert marker.exists()
    marker.unlink()


@pytest.mark.parametrize("where", ["adapters/b", "adapters/b/deep", "data/more", "base"])
def test_an_embedded_repository_is_none(repository: Path, payload: str, where: str) -> None:
    folder = embedded(repository, payload, where=where)
    assert top_of(folder) == repository.resolve()
    asked(folder)
    assert changes_since("HEAD", folder).top == repository.resolve()


@pytest.mark.parametrize("at", ["its own folder", "the repository"])
@pytest.mark.parametrize("named", ["nothing", "the gate in it", "everything"])
def test_changes_since_in_an_embedded_repository(
    repository: Path, payload: str, monkeypatch: pytest.MonkeyPatch, at: str, named: str
) -> None:
    folder = embedded(repository, payload)
    monkeypatch.chdir(folder if at == "its own folder" else repository)
    gate = os.path.relpath(folder / "x.mergegate.yaml")
    paths = {"nothing": [], "the gate in it": [gate], "everything": ["."]}[named]
    options = ("--changed-since", "HEAD", "--stage", "preflight", "--registry", "r.jsonl")
    assert mergegate("check", *paths, *options) in {0, 1, 2}


def test_a_gate_in_no_repository_but_an_embedded_one(
    repository: Path, payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an archive that was unpacked: there is nothing that git could be asked."""
    folder = embedded(repository, payload)
    for path in sorted((repository / ".git").rglob("*"), reverse=True):
        path.unlink() if not path.is_dir() else path.rmdir()
    (repository / ".git").rmdir()
    with pytest.raises(GitError, match="is not a git repository, nor in one") as caught:
        changes_since("HEAD", folder)
    assert "(fix: " in str(caught.value)
    append_lines(folder / "own.jsonl", [made("ab")])
    assert not (folder / ".gitattributes").exists()


def test_git_itself_refuses_it(repository: Path, payload: str) -> None:
    """Where it is started there all the same."""
    folder = embedded(repository, payload)
    done = run_git(folder, "status")
    assert done.returncode != 0
    assert b"bare repository" in done.stderr


def test_a_repository_of_its_own_is_asked_without_its_programs(
    repository: Path, payload: str
) -> None:
    """A clone that lies in the work tree has settings that are not committed, but copied."""
    inner = repository / "adapters" / "b"
    git(inner, "init", "--quiet", "--initial-branch=main")
    git(inner, "add", "--all")
    git(inner, "commit", "--quiet", "-m", "first")
    git(inner, "config", "core.fsmonitor", payload)
    (inner / "adapter_config.json").write_text("{}")
    changes = changes_since("HEAD", inner)
    assert changes.top == inner.resolve()
    assert changes.touch(inner / "adapter_config.json")
    git(repository, "config", "--unset", "core.fsmonitor")
    assert changes_since("HEAD", repository).touch(inner)


def test_one_module_asks_git() -> None:
    root = Path(pytest_mergegate.__file__).parent
    texts = {f.relative_to(root).as_posix(): f.read_text("utf-8") for f in root.rglob("*.py")}
    using = {name for name, text in texts.items() if "subprocess" in text or "os.system" in text}
    assert using == {
        "cli/convert.py",
        "common/files/repository.py",
        "engine/models/chats.py",
        "merging/mergekit_process.py",
    }
    assert not any('"git' in texts[name] for name in using - {"common/files/repository.py"})
