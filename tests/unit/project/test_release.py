"""What a release needs: one version, one address, and scripts that do what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from pytest_mergegate.common.addresses import REPOSITORY, SITE

ROOT = Path(__file__).parents[3]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
OWN_NAME = REPOSITORY.partition("/")[2]
ADDRESS = re.compile(
    rf"(?:github(?:usercontent)?\.com/|uses: )(?P<repository>[\w-]+/{OWN_NAME})\b|"
    rf"(?P<site>https://[\w.-]+\.github\.io/{OWN_NAME})"
)


def texts(folder: Path) -> dict[str, str]:
    """Every file of text that git knows."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    found = {}
    for name in filter(None, listed.split("\0")):
        try:
            found[name] = (folder / name).read_text("utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
    return found


def addresses(folder: Path) -> set[str]:
    pattern = ADDRESS
    return {
        m[m.lastgroup] for t in texts(folder).values() for m in pattern.finditer(t) if m.lastgroup
    }


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(folder / ".ci" / script), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files of text, in a repository of their own."""
    folder = tmp_path / "copy"
    for name in texts(ROOT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    settings = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "init.defaultBranch=main"]
    for command in (["init", "-q"], ["add", "--all", "--force"], ["commit", "-qm", "all"]):
        subprocess.run(["git", *settings, *command], cwd=folder, check=True)
    return folder


def test_one_address() -> None:
    assert addresses(ROOT) == {REPOSITORY, SITE}


def test_it_can_be_another(copy: Path) -> None:
    said = run(copy, "address", f"somebody/{OWN_NAME}")
    assert said.returncode == 0, said.stderr
    assert addresses(copy) == {f"somebody/{OWN_NAME}", f"https://somebody.github.io/{OWN_NAME}"}


def test_one_version(copy: Path) -> None:
    """A release is refused where one place was forgotten."""
    assert run(copy, "version", f"v{VERSION}").returncode == 0
    assert run(copy, "version", "v9.9.9").returncode == 1
    for name in ("pyproject.toml", "CHANGELOG.md", "CITATION.cff", "docs/github-action.md"):
        before = (copy / name).read_text("utf-8")
        (copy / name).write_text(before.replace(VERSION, "9.9.9"), "utf-8")
        said = run(copy, "version", f"v{VERSION}")
        assert (said.returncode, VERSION in said.stderr) == (1, True)
        (copy / name).write_text(before, "utf-8")


def test_the_citation_has_what_its_format_asks_for() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "date-released"} <= set(said)
    assert said["version"] == VERSION


def test_forms_of_issues() -> None:
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    forms = sorted({*folder.glob("*.yml")} - {folder / "config.yml"})
    assert forms
    for path in forms:
        said = yaml.safe_load(path.read_text("utf-8"))
        assert {"name", "description", "body"} <= set(said)
        for part in said["body"]:
            assert part["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
            assert part["attributes"].get("label") or part["type"] == "markdown"


def test_docs_by_version(copy: Path, tmp_path: Path) -> None:
    """The root has the latest, each version stays where it was."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nmkdir -p "$7"\necho "$TAG" >"$7/index.html"\n')
    fake.chmod(0o755)

    def publish(tag: str) -> None:
        said = subprocess.run(
            ["bash", ".ci/publish-docs", tag],
            cwd=copy,
            env={"PATH": "/usr/bin:/bin:/usr/local/bin", "PYTHON": str(fake), "TAG": tag,
                 "GIT_AUTHOR_NAME": "x", "GIT_AUTHOR_EMAIL": "x@y", "GIT_COMMITTER_NAME": "x",
                 "GIT_COMMITTER_EMAIL": "x@y"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr

    def page(name: str) -> str:
        shown = ["git", "show", f"gh-pages:{name}"]
        return subprocess.run(shown, cwd=copy, capture_output=True, text=True, check=True).stdout

    for tag in ("v0.2.0", "v0.10.0", "v0.2.1"):
        publish(tag)
    assert page("index.html") == page("0.10/index.html") == "v0.10.0\n"
    assert page("0.2/index.html") == "v0.2.1\n"
    assert '<a href="0.2/">0.2</a>' in page("versions.html")
