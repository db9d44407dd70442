"""Repositories within the repository, settings and variables that would have git run a program."""

from __future__ import annotations

import os
import stat
import subprocess
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from unit.registry.making import made

import pytest_mergegate
from pytest_mergegate.cache_folder import check_cache
from pytest_mergegate.changed import GitError, changes_since
from pytest_mergegate.errors import GateError
from pytest_mergegate.git import run_git, top_of
from pytest_mergegate.registry.appending import append_lines

if TYPE_CHECKING:
    from collections.abc import Callable

SOMEBODY = ("-c", "user.name=x", "-c", "user.email=x@y", "-c", "safe.bareRepository=all")


def git(folder: Path, *arguments: str) -> str:
    """git as anybody runs it."""
    done = subprocess.run(
        ["git", *SOMEBODY, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout


@pytest.fixture
def repository(gate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work tree with one commit, and one file that differs from it."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    root = gate.parent
    (root / ".git").rmdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "first")
    (root / "data" / "b.jsonl").write_text("changed\n")
    return root


@pytest.fixture
def payload(marker: Path) -> str:
    """A program that only git would have started, whatever it is given."""
    program = marker.parent / "payload"
    program.write_text(f"#!/bin/sh\n: > '{marker}'\ncat 2>/dev/null\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def asked(folder: Path) -> None:
    """Everything that this package asks git, from a folder; what it says is right."""
    changes = changes_since("HEAD", folder)
    assert changes.touch(changes.top / "data" / "b.jsonl")
    assert not changes.touch(changes.top / "data" / "c.jsonl")
    append_lines(folder / "own.jsonl", [made("ab")])
    assert "merge=union" in (folder / ".gitattributes").read_text()
    with pytest.raises(GateError, match="git does not ignore it"):
        check_cache(folder / "cache")


# Repositories within the repository


def embedded(repository: Path, payload: str, *, where: str = "adapters/b") -> Path:
    """A folder of committed files that git takes for a repository, with its settings."""
    folder = repository / where
    folder.mkdir(exist_ok=True)
    (folder / "HEAD").write_text("ref: refs/heads/main\n")
    for name in ("objects", "refs"):
        (folder / name).mkdir()
        (folder / name / "keep").touch()
    (folder / "config").write_text(
        "[core]\nrepositoryformatversion = 0\nbare = false\nworktree = .\n"
        f"fsmonitor = {payload}\npager = {payload}\nhooksPath = .\n"
        f'[diff]\nexternal = {payload}\n[filter "x"]\nclean = {payload}\n'
    )
    for hook in ("post-index-change", "pre-auto-gc"):
        (folder / hook).write_bytes(Path(payload).read_bytes())
        (folder / hook).chmod(0o755)
    (folder / "x.mergegate.yaml").write_text((repository / "mergegate.yaml").read_text())
    git(repository, "add", "--all", where)
    git(repository, "commit", "--quiet", "-m", "an adapter")
    assert "HEAD" in git(repository, "ls-files", where)
    return folder


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
    (command,) = entry_points(group="console_scripts", name="mergegate")
    options = ("--changed-since", "HEAD", "--stage", "preflight", "--registry", "r.jsonl")
    code = command.load()(["check", *paths, *options])
    assert code in {0, 1, 2}


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


# Settings


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
    if key == "process":  # it is started, and has nothing to say
        with pytest.raises(GitError, match="the remote end hung up"):
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


def test_one_module_asks_git() -> None:
    root = Path(pytest_mergegate.__file__).parent
    texts = {f.relative_to(root).as_posix(): f.read_text("utf-8") for f in root.rglob("*.py")}
    using = {name for name, text in texts.items() if "subprocess" in text or "os.system" in text}
    assert using == {"git.py", "merging/mergekit_process.py"}
    assert '"git' not in texts["merging/mergekit_process.py"]
