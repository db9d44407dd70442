"""The fenced blocks of README and docs, and folders in which what they show can be run."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from warm import commands as forks

from pytest_mergegate.cli import main

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "examples" / "quickstart"
COMPATIBLE = ("rotate_upper", "cut_upper", "number_dot", "first_last")

_FENCE = re.compile(
    r"^(?:<!-- sandbox: (?P<sandbox>[a-z]+) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"^# (\.?[\w./-]+\.(?:py|ya?ml|toml))\n")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_LEFT = re.compile(r"\(?\d+(?:\.\d+)? s\)?|0x[0-9a-f]+|=+|\[ *\d+%\]")
_SLACK = 0.15
"""How far a number may be from the one shown: another processor rounds otherwise."""


_CI = ("CI", "BUILD_NUMBER")
"""What tells of a CI, which writes no registry that nobody named."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    sandbox: str
    """The folder in which it is run: ``project``, ``adapters`` or ``clone``."""

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that its first line says it is."""
        found = _FILE.match(self.text)
        return found[1] if found else None


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, and the lines shown below it."""

    line: str
    shown: tuple[str, ...]


def pages() -> list[str]:
    """README and every page of docs/."""
    found = ["README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
    return sorted(found)


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start("language")) + 1,
            language=found["language"],
            text="".join(
                line.removeprefix(found["indent"]) for line in found["text"].splitlines(True)
            ),
            sandbox=found["sandbox"] or "project",
        )
        for found in _FENCE.finditer(text)
    ]


def commands(block: Block) -> list[Command]:
    """The commands of a console block, each with what is shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif found:
            found[-1][1].append(line)
        else:
            raise AssertionError(f"{block.where}: {line!r} stands before any command")
    return [Command(line=line, shown=tuple(shown)) for line, shown in found]


class Sandbox:
    """A folder like a reader's, in which commands follow one another."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.folder = self.here = folder
        {"project": _project, "adapters": _adapters, "clone": _clone}[kind](folder)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run it in bash where the last one left off; ``mergegate`` itself in this process, which
        has loaded what takes longest already."""
        if command.startswith("mergegate ") and not set("|><&;") & set(command):
            return _mergegate(command, self.here)
        script = f"{command}\ncode=$?; pwd > {self.folder}/.here; exit $code"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.here,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        here = self.folder / ".here"
        self.here = Path(here.read_text(encoding="utf-8").strip())
        here.unlink()
        return done


def _mergegate(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    arguments = shlex.split(command, comments=True)[1:]
    out, err = StringIO(), StringIO()
    before = dict(os.environ)
    for name in _CI:
        os.environ.pop(name, None)
    os.environ |= {"NO_COLOR": "1", "COLUMNS": "80"}
    try:
        with contextlib.chdir(folder), redirect_stdout(out), redirect_stderr(err):
            code = main(arguments)
    except SystemExit as left:
        code = int(left.code or 0)
    finally:
        os.environ.clear()
        os.environ |= before
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def environment() -> dict[str, str]:
    """This process's, with its commands first, which are forks of one that has imported torch,
    and without what an outer pytest or a CI left in it: pages speak to people."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    kept = {key: value for key, value in kept.items() if key not in _CI}
    folders = (forks(), Path(sys.executable).parent, os.environ["PATH"])
    path = os.pathsep.join(map(str, folders))
    # the repository's package, wherever this runs
    modules = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    quiet = "-p no:randomly -p no:cacheprovider -p no:hypothesispytest"
    return kept | {
        "PATH": path,
        "PYTHONPATH": modules,
        "PYTEST_ADDOPTS": quiet,
        "NO_COLOR": "1",
        "COLUMNS": "80",
    }


def missing(shown: tuple[str, ...], actual: str) -> str | None:
    """The first line shown that the output does not have, below the one before."""
    lines = iter(actual.splitlines())
    for line in shown:
        if line.strip() in {"", "..."}:
            continue
        if not any(_alike(line, other) for other in lines):
            return line
    return None


def _alike(shown: str, actual: str) -> bool:
    """Whether two lines differ in no more than seconds and the last digits of numbers."""
    first, second = (" ".join(_LEFT.sub("~", line).split()) for line in (shown, actual))
    if _NUMBER.sub("#", first) != _NUMBER.sub("#", second):
        return False
    pairs = zip(_NUMBER.findall(first), _NUMBER.findall(second), strict=True)
    return all(abs(float(a) - float(b)) <= _SLACK * max(float(a), float(b), 1) for a, b in pairs)


def _clone(folder: Path) -> None:
    shutil.copytree(QUICKSTART, folder / "examples" / "quickstart")


def _adapters(folder: Path) -> None:
    for name in ("adapters", "base", "data"):
        shutil.copytree(QUICKSTART / name, folder / name)


def _project(folder: Path) -> None:
    """Four experts that get along, a gate that passes, and git that knows of origin/main."""
    shutil.copytree(QUICKSTART / "base", folder / "base")
    for name in COMPATIBLE:
        shutil.copytree(QUICKSTART / "adapters" / name, folder / "adapters" / name)
        (folder / "data").mkdir(exist_ok=True)
        shutil.copy(QUICKSTART / "data" / f"{name}.jsonl", folder / "data")
    shutil.copy(QUICKSTART / "compatible.mergegate.yaml", folder / "mergegate.yaml")
    shutil.copy(QUICKSTART / "merge.yml", folder)
    (folder / ".gitignore").write_text("__pycache__/\n.here\n", encoding="utf-8")
    git = [
        "git",
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.org",
        "-c",
        "init.defaultBranch=m",
    ]
    for arguments in (
        ["init", "-q"],
        ["add", "-A"],
        ["commit", "-qm", "all"],
        ["update-ref", "refs/remotes/origin/main", "HEAD"],
    ):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
