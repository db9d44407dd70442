"""Whatever README and docs show is run, in a folder like a reader's, and says what they show."""

from __future__ import annotations

import doctest
import shlex
from typing import TYPE_CHECKING

import pytest
from doc_blocks import ROOT, Block, Sandbox, blocks, commands, missing, pages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

NOT_RUN = {
    "pip install ": "needs a network; .ci/setup installs the same",
    "git clone ": "needs a network",
    "cd pytest-mergegate": "follows the clone",
    "bash examples/quickstart/run": "sets up an environment of its own; a step of .ci/run",
    "pre-commit ": "tests/integration/test_pre_commit.py runs the hooks under pre-commit itself",
}
"""Beginnings of commands that are not run here, and why."""
RUN = ("console", "python", "pycon", "toml")
REPORT = "mergegate check mergegate.yaml -q --report json:report.json"


class Reader:
    """Goes through a page, doing what it says."""

    def __init__(self, folder: Path, *, prepare: bool) -> None:
        self._folder = folder
        self._prepare = prepare
        self._sandboxes: dict[str, Sandbox] = {}

    def follow(self, block: Block) -> None:
        """Do what the block says."""
        does: dict[str, Callable[[Block], None]] = {
            "console": self._console,
            "python": self._python,
            "pycon": self._pycon,
            "toml": self._settings,
        }
        does[block.language](block)

    def _sandbox(self, block: Block) -> Sandbox:
        if block.sandbox not in self._sandboxes:
            folder = self._folder / block.sandbox
            folder.mkdir()
            made = self._sandboxes[block.sandbox] = Sandbox(block.sandbox, folder)
            if self._prepare and block.sandbox == "project":
                done = made.run(REPORT)
                assert done.returncode == 0, done.stdout + done.stderr
        return self._sandboxes[block.sandbox]

    def _console(self, block: Block) -> None:
        found = commands(block)
        for command, following in zip(found, [*found[1:], None], strict=True):
            if command.line.startswith(tuple(NOT_RUN)) or command.line == "echo $?":
                continue
            code = 0
            if following is not None and following.line == "echo $?":
                code = int(following.shown[0])
            done = self._sandbox(block).run(command.line)
            said = f"{block.where}: $ {command.line}\n{done.stdout}{done.stderr}"
            assert done.returncode == code, said
            lost = missing(command.shown, done.stdout)
            assert lost is None, f"not said: {lost!r}\n{said}"

    def _python(self, block: Block) -> None:
        sandbox = self._sandbox(block)
        name = block.file or ("test_block.py" if "def test_" in block.text else "block.py")
        (sandbox.here / name).write_text(block.text, encoding="utf-8")
        runner = "pytest --mergegate" if name.startswith("test_") else "python"
        done = sandbox.run(f"{runner} {shlex.quote(name)}")
        assert done.returncode == 0, f"{block.where}\n{done.stdout}{done.stderr}"

    def _pycon(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(block.text, {}, block.where, None, block.line)
        assert test.examples, block.where
        told: list[str] = []
        failed = doctest.DocTestRunner(verbose=False).run(test, out=told.append).failed
        assert not failed, "".join(told)

    def _settings(self, block: Block) -> None:
        assert block.file is not None, f"{block.where}: say in a comment which file this is"
        sandbox = self._sandbox(block)
        (sandbox.here / block.file).write_text(block.text, encoding="utf-8")
        done = sandbox.run("pytest --mergegate --collect-only -q --strict-config")
        assert done.returncode == 0, f"{block.where}\n{done.stdout}{done.stderr}"


def shown(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language in RUN]


@pytest.mark.parametrize("page", [page for page in pages() if shown(page)])
def test_what_a_page_shows_happens(page: str, tmp_path: Path) -> None:
    needs = "report.json" in (ROOT / page).read_text(encoding="utf-8")
    reader = Reader(tmp_path, prepare=needs)
    for block in shown(page):
        reader.follow(block)


def test_nothing_is_excused_that_is_not_shown() -> None:
    lines = [
        c.line for p in pages() for b in shown(p) if b.language == "console" for c in commands(b)
    ]
    idle = [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)]
    assert not idle


def test_a_changed_output_is_noticed() -> None:
    said = "PASS mergegate.yaml: 3 experts (8.4 s)\nfirst_last  1.42  pass\n"
    assert (
        missing(("PASS mergegate.yaml: 3 experts (1.0 s)", "...", "first_last 1.40 pass"), said)
        is None
    )
    assert missing(("PASS mergegate.yaml: 4 experts (1.0 s)",), said) is not None
    assert missing(("FAIL mergegate.yaml: 3 experts (8.4 s)",), said) is not None
    assert (
        missing(("first_last 1.42 pass", "PASS mergegate.yaml: 3 experts (8.4 s)"), said)
        is not None
    )
