"""Settings and variables that would have git run a program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.cli.changed_since import GitError, changes_since
from pytest_mergegate.common.files.cache_folder import check_cache
from untrusted.asking import asked, embedded
from untrusted.checkouts import git

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def repository(work_tree: Path) -> Path:
    """The repository of these tests."""
    return work_tree


def _touched(root: Path) -> None:
    """Files whose times say nothing, so that git has to read them."""
    for name in ("data/a.jsonl", "data/c.jsonl"):
        os.utime(root / name, (1, 1))


def _fsmonitor(root: Path, payload: str) -> tuple[str, ...]:
    git(root, "config", "core.fsmonitor", payload)
    return ("status",)


def _hooks_path(root: Path, payload: str) -> tuple[str, ...]:
    (root / "hooks").mkdir()
    (root / "hooks" / "post-index-change").write_bytes(Path(payload).read_bytes())
    (root / "hooks" / "post-index-change").chmod(0o755)
    git(root, "config", "core.hooksPath", "hooks")
    _touched(root)
    return ("status",)


def _filter(key: str) -> Callable[[Path, str], tuple[str, ...]]:
    def configure(root: Path, payload: str) -> tuple[str, ...]:
        (root / ".gitattributes").write_text("*.jsonl filter=a=b.c\n")
        git(root, "config", f"filter.a=b.c.{key}", payload)
        git(root, "config", "filter.a=b.c.required", "true")
        _touched(root)
        return ("diff", "--name-only", "HEAD")

    return configure


def _included(root: Path, payload: str) -> tuple[str, ...]:
    """Settings that a team shares by committing them."""
    (root / ".gitconfig").write_text(f'[filter "x"]\nclean = {payload}\n')
    (root / ".gitattributes").write_text("* filter=x\n")
    git(root, "config", "include.path", "../.gitconfig")
    _touched(root)
    return ("diff", "--name-only", "HEAD")


def _external(root: Path, payload: str) -> tuple[str, ...]:
    git(root, "config", "diff.external", payload)
    return ("diff", "HEAD")


def _driver(key: str) -> Callable[[Path, str], tuple[str, ...]]:
    def configure(root: Path, payload: str) -> tuple[str, ...]:
        (root / ".gitattributes").write_text("*.jsonl diff=x\n")
        git(root, "config", f"diff.x.{key}", payload)
        return ("diff", "HEAD")

    return configure


SETTINGS: dict[str, Callable[[Path, str], tuple[str, ...]]] = {
    "fsmonitor": _fsmonitor,
    "hooks": _hooks_path,
    "clean": _filter("clean"),
    "process": _filter("process"),
    "included": _included,
    "external diff": _external,
    "textconv": _driver("textconv"),
    "diff driver": _driver("command"),
}


@pytest.mark.parametrize("configure", SETTINGS.values(), ids=SETTINGS)
def test_a_setting_is_live(
    repository: Path, payload: str, marker: Path, configure: Callable[[Path, str], tuple[str, ...]]
) -> None:
    git(repository, *configure(repository, payload))
    assert marker.exists()
    marker.unlink()


@pytest.mark.parametrize("configure", SETTINGS.values(), ids=SETTINGS)
def test_no_setting_starts_a_program(
    repository: Path, payload: str, configure: Callable[[Path, str], tuple[str, ...]]
) -> None:
    configure(repository, payload)
    asked(repository)


@pytest.mark.parametrize("key", ["clean", "process"])
def test_git_lfs_is_the_one_that_is_installed(
    repository: Path,
    payload: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    """Whatever a setting says; files that it keeps count as changed by their content."""
    (tmp_path / "bin").mkdir()
    installed = tmp_path / "bin" / "git-lfs"
    installed.write_text('#!/bin/sh\n[ "$1" = clean ] && sha256sum\n')
    (repository / "git-lfs").write_bytes(Path(payload).read_bytes())
    for program in (installed, repository / "git-lfs"):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f".{os.pathsep}{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (repository / ".gitattributes").write_text("data/* filter=lfs\n")
    filtering = ("-c", f"filter.lfs.clean={installed} clean")
    git(repository, *filtering, "add", "--all", "--renormalize")
    git(repository, "commit", "--quiet", "-m", "kept by git-lfs")
    assert len(git(repository, "show", "HEAD:data/a.jsonl").split()) == 2
    git(repository, "config", f"filter.lfs.{key}", payload)
    git(repository, "config", "filter.lfs.required", "true")
    for name in ("a", "c"):
        os.utime(repository / "data" / f"{name}.jsonl", (2, 2))
    (repository / "data" / "b.jsonl").write_text("changed again\n")
    if key == "process":  # what is installed is started, and has nothing to say: git says how
        with pytest.raises(GitError, match=r"git \S+ failed"):
            changes_since("HEAD", repository)
        return
    changes = changes_since("HEAD", repository)
    assert changes.touch(repository / "data" / "b.jsonl")
    assert not changes.touch(repository / "data" / "a.jsonl")
    assert not changes.touch(repository / "data" / "c.jsonl")


def test_nothing_is_fetched(repository: Path, payload: str, tmp_path: Path) -> None:
    """A partial clone fetches what it lacks, by a program that its settings name."""
    git(repository, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "--quiet", "--filter=tree:0", "--no-checkout",
        repository.as_uri(), "clone")  # fmt: skip
    clone = tmp_path / "clone"
    git(clone, "config", "remote.origin.uploadpack", payload)
    git(clone, "config", "credential.helper", f"!{payload}")
    with pytest.raises(GitError, match="git diff failed"):
        changes_since("HEAD", clone)


# The environment


@pytest.mark.parametrize(
    "name",
    [
        "GIT_EXTERNAL_DIFF", "GIT_PAGER", "GIT_SSH_COMMAND", "GIT_ASKPASS", "GIT_EDITOR",
        "GIT_PROXY_COMMAND", "PAGER",
    ],
)  # fmt: skip
def test_no_variable_starts_a_program(
    repository: Path, payload: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, payload)
    asked(repository)


@pytest.mark.parametrize("how", ["GIT_DIR", "GIT_WORK_TREE", "GIT_CONFIG_PARAMETERS", "count"])
def test_no_variable_leads_elsewhere(
    repository: Path, payload: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = embedded(repository, payload)
    if how == "count":
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", payload)
    elif how == "GIT_CONFIG_PARAMETERS":
        monkeypatch.setenv(how, f"'core.fsmonitor'='{payload}'")
    else:
        monkeypatch.setenv(how, str(folder))
    asked(repository)


@pytest.mark.parametrize("path", [".", "", "./bin", "bin"])
def test_no_program_called_git_lies_in_the_repository(
    repository: Path, payload: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """An entry of PATH that is relative would be looked up where git is to run."""
    for folder in (repository, repository / "bin"):
        folder.mkdir(exist_ok=True)
        (folder / "git").write_bytes(Path(payload).read_bytes())
        (folder / "git").chmod(0o755)
    monkeypatch.chdir(repository)
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    asked(repository)


def test_the_user_s_own_settings_count(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the folders that git is to trust, and what it is to ignore."""
    (tmp_path / "settings").write_text(f"[core]\nexcludesFile = {tmp_path / 'ignored'}\n")
    (tmp_path / "ignored").write_text("kept-here/\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "settings"))
    check_cache(repository / "kept-here")
