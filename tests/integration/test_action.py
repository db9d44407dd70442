"""The action's own steps, run on this machine over a repository made from examples/github."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from github_runner import Ran, Runner
from warm import SETTINGS, commands

from pytest_mergegate.common.plain_text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "github"
ACTION = "pytest-mergegate/pytest-mergegate"
REPOSITORY = "team/merges"
pytestmark = pytest.mark.slow


@dataclass(kw_only=True)
class GitHub:
    """What a run leaves behind: caches and artifacts; and the checkout that it runs on."""

    folder: Path
    workspace: Path
    artifacts: dict[str, Path] = field(default_factory=dict)
    caches: list[tuple[str, Path]] = field(default_factory=list)
    runs: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    event: dict[str, Any] = field(default_factory=dict)
    """In place of a push or a pull request."""
    forks: bool = False
    """Whether what the steps start may be forks: see tests/warm.py."""
    restored: list[str] = field(default_factory=list)
    """The keys that were asked for."""

    def workflow(
        self, *, pull_request: int | None = None, head: str | None = REPOSITORY, **inputs: str
    ) -> Ran:
        """The example's workflow, as far as its use of the action; ``inputs`` beside its own.

        ``head`` is the repository that a pull request comes from, None where it is gone.
        """
        self.runs += 1
        temp = self.folder / f"temp{self.runs}"
        temp.mkdir()
        origin = {"repo": None if head is None else {"full_name": head}}
        pull = {"number": pull_request, "head": origin}
        event = {} if pull_request is None else {"pull_request": pull}
        ran: list[Ran] = []

        def gate(given: Mapping[str, str]) -> dict[str, str]:
            ran.append(runner.action(ROOT, {**given, "install": "false", **inputs}))
            return ran[0].outputs | {"outcome": "failure" if ran[0].failed else "success"}

        runner = Runner(
            workspace=self.workspace,
            temp=temp,
            github={
                "event": self.event or event,
                "repository": REPOSITORY,
                "run_id": str(self.runs),
                "run_attempt": "1",
            },
            uses={
                "actions/checkout": lambda _: {},
                "actions/cache/restore": self._restore,
                "actions/cache/save": self._save,
                "actions/upload-artifact": self._upload,
                ACTION: gate,
            },
            environment=_environment(forks=self.forks) | self.environment,
        )
        job = runner.job(self.workspace / ".github/workflows/mergegate.yml", "gate")
        (action,) = ran
        assert job.failed is action.failed
        return action

    def report(self, name: str = "mergegate") -> dict[str, Any]:
        """The JSON report among the artifacts."""
        path = self.artifacts[f"{name}-report"] / "mergegate-report.json"
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return data

    def checkout(self, branch: str) -> None:
        """Switch the checkout."""
        subprocess.run(["git", "checkout", "-q", branch], cwd=self.workspace, check=True)

    def _restore(self, given: dict[str, str]) -> dict[str, str]:
        self.restored.append(given["key"])
        for wanted in (given["key"], *given["restore-keys"].split()):
            for key, kept in reversed(self.caches):
                if key.startswith(wanted):
                    shutil.copytree(kept, given["path"])
                    return {"cache-hit": str(key == given["key"]).lower()}
        return {"cache-hit": ""}

    def _save(self, given: dict[str, str]) -> dict[str, str]:
        assert given["key"] not in dict(self.caches)
        if not Path(given["path"]).exists():
            return {}  # GitHub warns of it
        kept = self.folder / f"cache{len(self.caches)}"
        shutil.copytree(given["path"], kept)
        self.caches.append((given["key"], kept))
        return {}

    def _upload(self, given: dict[str, str]) -> dict[str, str]:
        kept = self.folder / f"artifacts{self.runs}" / given["name"]
        kept.mkdir(parents=True)
        pattern = Path(given["path"])
        found = [*pattern.iterdir()] if pattern.is_dir() else pattern.parent.glob(pattern.name)
        for path in found:
            shutil.copy(path, kept)
        self.artifacts[given["name"]] = kept
        return {}


def _environment(*, forks: bool) -> dict[str, str]:
    """A runner's, with this package in it; nothing of the tests' own cache."""
    wanted = ("HOME", "LANG", "OMP_NUM_THREADS", *(SETTINGS if forks else ()))
    kept = {k: v for k, v in os.environ.items() if k.startswith(wanted)}
    folders = [commands()] * forks + [Path(sys.executable).parent, os.environ["PATH"]]
    path = os.pathsep.join(map(str, folders))
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def _assemble(folder: Path) -> Path:
    subprocess.run(["bash", str(EXAMPLE / "assemble"), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> GitHub:
    """A repository on which the workflow has run on ``main``, then on the pull request."""
    folder = tmp_path_factory.mktemp("github")
    return GitHub(folder=folder, workspace=_assemble(folder / "repository"))


@pytest.fixture(scope="module")
def on_main(github: GitHub) -> Ran:
    github.checkout("main")
    return github.workflow()


@pytest.fixture(scope="module")
def on_pull_request(github: GitHub, on_main: Ran) -> Ran:
    github.checkout("add-reverse-shout")
    return github.workflow(pull_request=7)


@pytest.fixture
def fresh(tmp_path: Path) -> GitHub:
    """A repository without the files that its gate names."""
    github = GitHub(folder=tmp_path, workspace=tmp_path / "repository", forks=True)
    shutil.copytree(EXAMPLE, github.workspace)
    return github


def test_adapters_that_get_along_are_green(github: GitHub, on_main: Ran) -> None:
    assert not on_main.failed, on_main.log
    assert on_main.outputs["status"] == "pass"
    for name in ("rotate_upper", "first_last", "reverse_upper"):
        assert name in on_main.summary
    assert on_main.annotations("error") == []
    assert github.caches[0][0] == "mergegate-Linux-mergegate-1-1"


def test_a_colliding_adapter_is_red_with_its_cause_and_cure(
    github: GitHub, on_pull_request: Ran
) -> None:
    ran = on_pull_request
    assert ran.failed
    assert ran.outputs["status"] == "fail"
    assert ran.outputs["worst-expert"] == "reverse_shout"
    for said in ("reverse_shout", "interference with reverse_upper", "leave reverse_shout out"):
        assert said in ran.summary.replace("\\", "")
    (error,) = ran.annotations("error")
    lines = (github.workspace / "mergegate.yaml").read_text().splitlines()
    assert error.properties["file"] == "mergegate.yaml"
    assert lines[int(error.properties["line"]) - 1].startswith("  reverse_shout:")
    assert error.properties["title"] == "reverse_shout: over budget"
    assert "interference with reverse_upper" in error.data
    assert "try: leave reverse_shout out" in error.data


def test_what_the_pull_request_s_run_keeps(github: GitHub, on_pull_request: Ran) -> None:
    kept = github.artifacts["mergegate-report"]
    assert {path.suffix for path in kept.iterdir()} == {".html", ".json", ".md", ".sarif"}
    html = github.workspace / on_pull_request.outputs["report-path"]
    assert "reverse_shout" in html.read_text(encoding="utf-8")
    assert Path(on_pull_request.outputs["sarif-path"]).is_file()
    comment = github.artifacts["mergegate-comment"]
    assert (comment / "pull-request.txt").read_text() == "7\n"
    text = (comment / "comment.md").read_text(encoding="utf-8")
    assert "reverse_shout" in text
    assert len(text) < 65_536


def test_an_expert_more_starts_from_the_default_branch_s_results(
    github: GitHub, on_pull_request: Ran
) -> None:
    assert github.report()["cache"]["hits"] > 0


def test_the_second_run_hits_the_cache(
    github: GitHub, on_pull_request: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is computed: in its second run the job has no torch that could be imported."""
    saved = len(github.caches)
    trap = github.folder / "trap" / "torch"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text("raise ImportError('torch was imported')")
    trapped = {"PYTHONPATH": f"{trap.parent}{os.pathsep}{ROOT}"}
    monkeypatch.setattr(github, "environment", trapped)
    ran = github.workflow(pull_request=7)
    assert "torch was imported" not in ran.log
    assert ran.outputs["status"] == "fail"
    report = github.report()
    assert report["cache"]["hits"] > 0
    assert report["cache"]["misses"] == 0
    assert sum(report["seconds"].values()) < 10
    assert len(github.caches) == saved  # there was nothing to add


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"paths": "empty"}, "5"),
        ({"paths": "nowhere"}, "4"),
        ({"paths": ""}, "4"),
        ({"stage": "preflight", "require-gates": "2"}, None),
        ({"require-gates": "none"}, "4"),
        ({"max-loss": "many"}, "4"),
        ({"max-loss": "-1"}, "4"),
        ({"merged": "nowhere"}, "4"),
        ({"stage": "deep"}, "4"),
        ({"device": "abacus"}, "4"),
        ({"stage": "preflight; touch injected"}, "4"),
        ({"paths": "--help"}, "4"),
        ({"paths": "$(touch injected)"}, "4"),
    ],
)
def test_what_gates_nothing_is_red(fresh: GitHub, inputs: dict[str, str], code: str | None) -> None:
    (fresh.workspace / "empty").mkdir()
    ran = fresh.workflow(pull_request=7, cache="false", **inputs)
    assert ran.failed
    assert ran.outputs["status"] == "error"
    assert ran.outputs["report-path"] == ""
    assert not (fresh.workspace / "injected").exists()
    if code is not None:
        assert ran.steps["check"]["outputs"]["exit-code"] == code, ran.log


def test_a_finished_merge_in_place_of_one_that_is_made(github: GitHub, on_main: Ran) -> None:
    github.checkout("main")
    exported, copied = github.folder / "exported", github.folder / "copied"
    one = github.workspace / "adapters" / "reverse_upper"
    shutil.copytree(one, exported)
    shutil.copytree(github.workspace / "base", copied)
    ran = github.workflow(merged=str(exported))
    assert ran.outputs["status"] == "fail"  # it is one of three
    (report,) = github.report()["reports"] if "reports" in github.report() else [github.report()]
    statuses = {verdict["expert"]: verdict["status"] for verdict in report["verdicts"]}
    assert statuses["reverse_upper"] == "pass"
    assert {statuses["rotate_upper"], statuses["first_last"]} == {"fail"}
    ran = github.workflow(merged=str(copied), stage="preflight")
    assert ran.outputs["status"] == "error"
    assert "MG131" in ran.log


def test_a_check_that_is_killed_is_red(fresh: GitHub, tmp_path: Path) -> None:
    """What it has said is no command, and an old report in the checkout is not its own."""
    (fresh.workspace / "mergegate-report.html").write_text("old")
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "mergegate"
    real = Path(sys.executable).parent / "mergegate"
    said = "::add-mask::x\n::warning::x\n##[set-output name=status]pass\n"
    fake.write_text(
        f'#!/bin/bash\n[ "$1" = check ] || exec {real} "$@"\nprintf "{said}" >&2\nkill -9 $$\n'
    )
    fake.chmod(0o755)
    fresh.environment = {"PATH": f"{fake.parent}{os.pathsep}{os.environ['PATH']}"}
    ran = fresh.workflow()
    assert ran.failed
    assert (ran.outputs["status"], ran.outputs["report-path"]) == ("error", "")
    assert "\n::add-mask::x\n" in ran.log  # said, but not carried out
    (error,) = ran.commands
    assert "the check wrote no report (exit code 137)" in error.data
    assert "137" in ran.summary


def test_without_the_package_it_is_red(fresh: GitHub) -> None:
    fresh.environment = {"PATH": "/usr/bin:/bin"}
    ran = fresh.workflow()
    assert ran.failed
    assert ran.outputs["status"] == "error"


HOSTILE = (
    "#[add-mask]pass",  # two # are no part of a name: tests/untrusted/test_text.py
    "100%0A,title=x",
    "$(touch injected)`touch injected`",
    "<script>alert(1)</script><!-- | [x](javascript:x) @everyone",
)


def test_nothing_in_the_names_of_experts_is_obeyed(tmp_path: Path) -> None:
    """They are commands to GitHub, to the shell, to Markdown and to HTML."""
    github = GitHub(folder=tmp_path, workspace=_assemble(tmp_path / "repository"), forks=True)
    github.checkout("add-reverse-shout")
    adapters = ("rotate_upper", "first_last", "reverse_upper", "reverse_shout")
    experts = {
        name: {"path": f"adapters/{adapter}", "examples": f"data/{adapter}.jsonl"}
        for name, adapter in zip(HOSTILE, adapters, strict=True)
    }
    gate = {"base": "base", "experts": experts, "budget": {"max_conflicting_magnitude_ratio": 0}}
    (github.workspace / "mergegate.yaml").write_text(json.dumps(gate), encoding="utf-8")
    ran = github.workflow(pull_request=7)
    assert ran.failed
    assert ran.outputs["status"] == "fail"
    assert ran.outputs["worst-expert"] in HOSTILE
    assert "##[add-mask]" not in ran.log
    assert {command.name for command in ran.commands} <= {"error", "warning"}
    titles = [command.properties["title"] for command in ran.annotations("error")]
    assert {clean(f"{name}: over budget") for name in HOSTILE} <= set(titles)
    assert not (github.workspace / "injected").exists()
    html = (github.workspace / ran.outputs["report-path"]).read_text(encoding="utf-8")
    assert "<script>alert(1)" not in html
    assert "<script>alert(1)" not in re.sub(r"(`+).+?\1|\\.", "", ran.summary)
    assert "@everyone" not in re.sub(r"(`+).+?\1", "", ran.summary)


def test_nothing_in_a_gate_file_with_mistakes_is_obeyed(fresh: GitHub) -> None:
    gate = {"base": "base", "experts": {"x\n::add-mask::pass": "a", "y\n::error::z": "b"}}
    (fresh.workspace / "mergegate.yaml").write_text(json.dumps(gate), encoding="utf-8")
    ran = fresh.workflow(pull_request=7)
    assert ran.outputs["status"] == "error"
    assert "::add-mask::pass" in ran.log
    names = [command.name for command in ran.commands]
    assert names == ["error", "error"]
    assert all(c.properties["file"] == "mergegate.yaml" for c in ran.commands)


def test_a_pull_request_that_concerns_no_gate(github: GitHub, on_main: Ran) -> None:
    """Green, but no pass; and its report says that nothing was left to run."""
    github.checkout("main")
    ran = github.workflow(pull_request=8, **{"changed-since": "main"})
    assert not ran.failed
    assert ran.outputs["status"] == "inconclusive"
    assert "no change since main concerns a gate" in ran.summary
    github.checkout("add-reverse-shout")
    ran = github.workflow(pull_request=8, **{"changed-since": "main", "stage": "preflight"})
    assert github.report()["gate"] == "mergegate.yaml"
    assert (ran.failed, ran.outputs["worst-expert"]) == (False, "")
    ran = github.workflow(pull_request=8, **{"changed-since": "nowhere"})
    assert (ran.failed, ran.outputs["status"]) == (True, "error")


# Pull requests from forks


FORKS: dict[str, dict[str, Any]] = {
    "a fork": {"pull_request": {"number": 9, "head": {"repo": {"full_name": "mallory/merges"}}}},
    "a fork that is gone": {"pull_request": {"number": 9, "head": {"repo": None}}},
    "a fork of a like name": {
        "pull_request": {"number": 9, "head": {"repo": {"full_name": f"{REPOSITORY}2"}}}
    },
    "a fork's run": {"workflow_run": {"id": 5, "head_repository": {"full_name": "mallory/merges"}}},
    "a gone fork's run": {"workflow_run": {"id": 5, "head_repository": None}},
}
OWN: dict[str, dict[str, Any]] = {
    "a branch": {"pull_request": {"number": 9, "head": {"repo": {"full_name": REPOSITORY}}}},
    "a branch's run": {"workflow_run": {"id": 5, "head_repository": {"full_name": REPOSITORY}}},
    "a push": {"ref": "refs/heads/main"},
}


@pytest.mark.parametrize("event", FORKS.values(), ids=FORKS)
def test_a_fork_is_given_no_cache(github: GitHub, on_main: Ran, event: dict[str, Any]) -> None:
    """Nor does it leave one: what it has saved for its pull request may be forged."""
    github.checkout("main")
    forged = github.folder / "forged"
    shutil.copytree(github.caches[0][1], forged, dirs_exist_ok=True)
    kept, asked = [*github.caches], [*github.restored]
    github.caches.append(("mergegate-Linux-mergegate-0-1", forged))
    github.event, github.forks = event, True
    try:
        ran = github.workflow(stage="conflict")
    finally:
        github.event, github.forks = {}, False
        github.caches.remove(("mergegate-Linux-mergegate-0-1", forged))
    assert github.restored == asked
    assert github.caches == kept
    assert github.report()["cache"]["hits"] == 0
    assert github.report()["conflicts"] is not None, ran.log
    assert not (Path(ran.steps["room"]["outputs"]["reports"]).parent / "mergegate-cache").exists()


@pytest.mark.parametrize("event", OWN.values(), ids=OWN)
def test_the_repository_s_own_branches_have_one(
    github: GitHub, on_main: Ran, event: dict[str, Any]
) -> None:
    github.checkout("main")
    github.event, github.forks = event, True
    try:
        github.workflow(stage="conflict")
    finally:
        github.event, github.forks = {}, False
    assert github.restored[-1] == f"mergegate-Linux-mergegate-{github.runs}-1"
    assert github.report()["cache"]["hits"] > 0


@pytest.mark.parametrize("how", ["the file", "its folder", "a file of the team's"])
def test_the_report_is_written_through_no_link(fresh: GitHub, how: str) -> None:
    """Which a pull request commits where the report is to be; nothing is removed, either."""
    secret = fresh.folder / "secret"
    secret.mkdir()
    (secret / "report.html").write_text("TOP-SECRET")
    (fresh.workspace / "conftest.py").write_text("# the team's\n")
    if how == "its folder":
        (fresh.workspace / "out").symlink_to("../secret")
    else:
        (fresh.workspace / "out").mkdir()
        target = "../../secret/report.html" if how == "the file" else "../conftest.py"
        (fresh.workspace / "out" / "report.html").symlink_to(target)
    ran = fresh.workflow(pull_request=7, report="out/report.html")
    assert ran.failed
    assert ran.outputs["report-path"] == ""
    assert any("is a symlink to" in command.data for command in ran.annotations("error"))
    assert "TOP-SECRET" not in ran.summary + ran.log
    assert (secret / "report.html").read_text() == "TOP-SECRET"
    assert (fresh.workspace / "conftest.py").read_text() == "# the team's\n"
    html = (fresh.artifacts["mergegate-report"] / "mergegate-report.html").read_text("utf-8")
    assert "mergegate.yaml" in html
