"""What this package asks git, and a repository within a repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.history.registry.making import made

from pytest_mergegate.cli.changed_since import changes_since
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.cache_folder import check_cache
from pytest_mergegate.history.registry.appending import append_lines
from untrusted.checkouts import git


def asked(folder: Path) -> None:
    """Everything that this package asks git, from a folder; what it says is right."""
    changes = changes_since("HEAD", folder)
    assert changes.touch(changes.top / "data" / "b.jsonl")
    assert not changes.touch(changes.top / "data" / "c.jsonl")
    append_lines(folder / "own.jsonl", [made("ab")])
    assert "merge=union" in (folder / ".gitattributes").read_text()
    with pytest.raises(GateError, match="git does not ignore it"):
        check_cache(folder / "cache")


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
