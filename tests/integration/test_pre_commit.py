"""The hooks under the real pre-commit, in a repository of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pools import edit_adapter_config, read_gate, write_gate
from warm import commands

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PREFLIGHT, FULL = "mergegate-preflight", "mergegate"


def environment(folder: Path) -> dict[str, str]:
    """Without the caller's git, with the command on the path and a home for pre-commit."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "PRE_COMMIT"))}
    return kept | {
        "PATH": f"{folder / 'bin'}{os.pathsep}{kept['PATH']}",
        "HOME": str(folder),
        "PRE_COMMIT_HOME": str(folder / "pre-commit"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{
            f"GIT_{who}_{what}": "x@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }


class Project:
    """A repository with a pool and the hooks."""

    def __init__(self, folder: Path, gate: Path) -> None:
        self.folder = folder / "project"
        self.environment = environment(folder)
        self.gate = self.folder / gate.name
        command = folder / "bin" / "mergegate"
        command.parent.mkdir()
        command.write_text(
            f'#!/bin/sh\nexec "{commands() / "python"}" -m pytest_mergegate.cli "$@"\n',
            encoding="utf-8",
        )
        command.chmod(0o755)
        hooks = folder / "hooks"
        hooks.mkdir()
        shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
        revision = self._repository(hooks)
        shutil.copytree(gate.parent, self.folder)
        ids = "".join(f"      - id: {name}\n" for name in (PREFLIGHT, FULL))
        (self.folder / ".pre-commit-config.yaml").write_text(
            f"repos:\n  - repo: {hooks}\n    rev: {revision}\n    hooks:\n{ids}", encoding="utf-8"
        )
        self._repository(self.folder)

    def _repository(self, folder: Path) -> str:
        self.run("git", "init", "-q", "-b", "main", cwd=folder)
        self.run("git", "add", "-A", cwd=folder)
        self.run("git", "commit", "-qm", "all", cwd=folder)
        return self.run("git", "rev-parse", "HEAD", cwd=folder).stdout.strip()

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if command[0] == "git":
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def hook(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one hook, on what is staged unless told otherwise."""
        self.run("git", "add", "-A")
        return self.run(sys.executable, "-m", "pre_commit", "run", name, "-v", *arguments)


@pytest.fixture
def project(tiny_pool: Path, tmp_path: Path) -> Project:
    return Project(tmp_path, tiny_pool)


def test_the_manifest_is_valid() -> None:
    command = [sys.executable, "-m", "pre_commit", "validate-manifest", ".pre-commit-hooks.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class TestPreflight:
    def test_passes_what_is_sound(self, project: Project) -> None:
        done = project.hook(PREFLIGHT, "--all-files")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 experts, nothing wrong; not judged: max_disagreement" in done.stdout

    @pytest.mark.parametrize(
        "changed",
        ["adapters/b/adapter_config.json", "data/b.jsonl", "base/tokenizer_config.json"],
    )
    def test_finds_the_gate_of_what_changed(self, project: Project, changed: str) -> None:
        edit_adapter_config(project.folder / "adapters/b", task_type="SEQ_CLS")
        if changed != "adapters/b/adapter_config.json":
            project.run("git", "commit", "-qam", "a mistake")
            with (project.folder / changed).open("a", encoding="utf-8") as file:
                file.write("\n")
        done = project.hook(PREFLIGHT)
        assert done.returncode == 1
        assert "MG101 b: the adapter was trained for task_type='SEQ_CLS'" in done.stdout
        assert "exit code: 2" in done.stdout

    def test_leaves_other_files_alone(self, project: Project) -> None:
        edit_adapter_config(project.folder / "adapters/b", task_type="SEQ_CLS")
        project.run("git", "commit", "-qam", "a mistake")
        for name in ("README.md", "package.json", "mergegate.yaml.txt"):
            (project.folder / name).write_text("{}", encoding="utf-8")
        done = project.hook(PREFLIGHT)
        assert done.returncode == 0
        assert "(no files to check)Skipped" in done.stdout

    def test_no_gate_is_no_pass(self, project: Project) -> None:
        project.gate.unlink()
        done = project.hook(PREFLIGHT, "--all-files")
        assert done.returncode == 1
        assert "no gate file found" in done.stdout

    def test_stops_a_commit(self, project: Project) -> None:
        project.run(sys.executable, "-m", "pre_commit", "install")
        edit_adapter_config(project.folder / "adapters/b", task_type="SEQ_CLS")
        project.run("git", "add", "-A")
        command = ["git", "commit", "-m", "no"]
        done = subprocess.run(
            command,
            cwd=project.folder,
            env=project.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "MG101 b" in done.stdout + done.stderr
        assert "merge gates......" not in done.stdout + done.stderr  # that is for the push


class TestTheWholeGate:
    @pytest.mark.parametrize(("limit", "code", "said"), [(1.0, 0, "PASS"), (0.0, 1, "FAIL")])
    def test_before_a_push(self, project: Project, limit: float, code: int, said: str) -> None:
        budget = {"budget": {"max_conflicting_magnitude_ratio": limit}}
        write_gate(project.gate, read_gate(project.gate) | budget)
        done = project.hook(FULL, "--all-files", "--hook-stage", "pre-push")
        assert done.returncode == code, done.stdout + done.stderr
        assert f"{said} mergegate.yaml: " in done.stdout
        by_hand = project.hook(FULL, "--all-files", "--hook-stage", "manual")
        assert by_hand.returncode == code
