"""The action and the workflows: what a linter does not know of them, and the script that posts."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from github_expressions import UnsupportedExpression, condition, interpolate

ROOT = Path(__file__).parents[3]
ACTION = ROOT / "action.yml"
EXAMPLE = ROOT / "examples" / "github" / ".github" / "workflows"
WORKFLOWS = sorted([*(ROOT / ".github" / "workflows").glob("*.yml"), *EXAMPLE.glob("*.yml")])
PINNED = re.compile(r"uses: [\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", re.MULTILINE)
OURS = re.compile(r"uses: (\./|pytest-mergegate/pytest-mergegate@v\d+\.\d+\.\d+) ")

WRITES = {
    ("mergegate-comment.yml", "comment"): {"pull-requests"},
    ("release.yml", "build"): {"id-token", "attestations"},
    ("release.yml", "publish"): {"id-token"},
    ("release.yml", "docs"): {"contents"},
}


def _read(path: Path) -> dict[Any, Any]:
    data: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return data


@pytest.mark.parametrize("path", [ACTION, *WORKFLOWS], ids=lambda path: path.name)
def test_other_people_s_actions_are_pinned(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = text.count("uses: ")
    assert used
    assert len(PINNED.findall(text)) + len(OURS.findall(text)) == used


def test_one_version_of_each_action() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ACTION, *WORKFLOWS)]
    # actions/cache/restore and actions/cache/save are of one repository
    used = {
        found for text in texts for found in re.findall(r"uses: (\w+/[\w-]+)\S*@(\S+ #.*)", text)
    }
    assert len(used) == len({name for name, _ in used})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_do_little_and_not_for_long(path: Path) -> None:
    said = _read(path)
    assert said["permissions"] == {}
    assert said["concurrency"]
    for name, job in said["jobs"].items():
        assert job["timeout-minutes"] <= 60
        writes = {scope for scope, access in job["permissions"].items() if access == "write"}
        assert writes == WRITES.get((path.name, name), set())


class TestAction:
    def test_its_surface(self) -> None:
        said = _read(ACTION)
        assert {
            "paths", "stage", "max-mds", "max-loss", "max-disagreement", "baseline", "report",
            "comment", "require-gates", "cache",
        } <= said["inputs"].keys()  # fmt: skip
        assert {"status", "report-path", "worst-expert"} <= said["outputs"].keys()
        assert said["inputs"]["require-gates"]["default"] == "1"
        assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in said["inputs"])
        for entry in (*said["inputs"].values(), *said["outputs"].values()):
            assert entry["description"]
        assert {"icon", "color"} == said["branding"].keys()

    def test_inputs_reach_scripts_through_the_environment_only(self) -> None:
        steps = [step for step in _read(ACTION)["runs"]["steps"] if "run" in step]
        assert steps
        assert all("${{" not in step["run"] for step in steps)
        assert all(step["shell"] == "bash" for step in steps)

    def test_every_input_is_used_and_documented(self) -> None:
        text = ACTION.read_text(encoding="utf-8")
        page = (ROOT / "docs" / "github-action.md").read_text(encoding="utf-8")
        said = _read(ACTION)
        for name in said["inputs"]:
            assert f"inputs.{name}" in text
        for name in (*said["inputs"], *said["outputs"]):
            assert f"| `{name}` |" in page
        shown = re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)
        assert shown == [*said["inputs"], *said["outputs"]]

    def test_steps_shown_are_valid(self) -> None:
        page = (ROOT / "docs" / "github-action.md").read_text(encoding="utf-8")
        blocks = [yaml.safe_load(b) for b in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
        steps = [step for block in blocks if isinstance(block, list) for step in block]
        ours = [step for step in steps if "pytest-mergegate" in step.get("uses", "")]
        assert ours
        for step in ours:
            assert step.get("with", {}).keys() <= _read(ACTION)["inputs"].keys()

    def test_the_marketplace_takes_its_description(self) -> None:
        assert len(_read(ACTION)["description"]) <= 125


class TestExpressions:
    CONTEXTS: dict[str, Any] = {  # noqa: RUF012
        "inputs": {"a-b": "true", "empty": ""},
        "steps": {"one": {"outcome": "success", "outputs": {"x": "y"}}},
        "github": {"event": {}},
    }

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("${{ inputs.a-b }}", "true"),
            ("x${{ steps.one.outputs.x }}z", "xyz"),
            ("${{ steps.one.outputs.none || 'error' }}", "error"),
            ("${{ github.event.pull_request.number }}", ""),
            ("${{ inputs.a-b == 'TRUE' && steps.one.outputs.x || '' }}", "y"),
            ("${{ inputs.a-b != 'true' && steps.one.outputs.x || '' }}", ""),
            ("${{ !(inputs.a-b == 'it''s') }}", "true"),
        ],
    )
    def test_values(self, text: str, value: str) -> None:
        assert interpolate(text, self.CONTEXTS) == value

    @pytest.mark.parametrize(
        "text",
        [
            "inputs.c",
            "steps.two.outputs.x",
            "secrets.x",
            "hashFiles('x')",
            "1 < 2",
            "'a",
            "a &&",
            "(inputs.a-b",
        ],
    )
    def test_anything_else_raises(self, text: str) -> None:
        with pytest.raises(UnsupportedExpression):
            interpolate(f"${{{{ {text} }}}}", self.CONTEXTS)

    @pytest.mark.parametrize(
        ("text", "failed", "runs"),
        [
            (None, False, True),
            (None, True, False),
            ("inputs.a-b == 'true'", True, False),
            ("always() && inputs.a-b == 'true'", True, True),
            ("always() && inputs.empty != ''", False, False),
            ("${{ failure() }}", True, True),
            ("failure()", False, False),
        ],
    )
    def test_conditions(self, text: str | None, failed: bool, runs: bool) -> None:
        assert condition(text, self.CONTEXTS, failed=failed) is runs


HARNESS = """
const state = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const calls = [];
const core = { notice: (text) => calls.push(['notice', text]) };
const record = (name) => async (given) => { calls.push([name, given]); };
const github = {
  rest: {
    pulls: { get: async ({ pull_number }) => ({ data: state.pulls[pull_number] }) },
    issues: {
      listComments: 'list', updateComment: record('update'), createComment: record('create'),
    },
  },
  paginate: async (method, given) => { calls.push([method, given]); return state.comments; },
};
const context = {
  repo: { owner: 'o', repo: 'r' }, payload: { workflow_run: state.run },
};
const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor;
new AsyncFunction('github', 'context', 'core', 'require', state.script)(
  github, context, core, require)
  .then(() => console.log(JSON.stringify({ calls })))
  .catch((error) => console.log(JSON.stringify({ calls, error: error.message })));
"""


class TestPosting:
    """mergegate-comment.yml's script, in node, against a stand-in for GitHub."""

    @pytest.fixture(autouse=True)
    def _artifact(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.write("# Merge gates: fail\n", "7\n")
        self.head = {"sha": "abc", "ref": "topic", "repo": {"full_name": "fork/r"}}
        self.comments: list[dict[str, Any]] = []

    def write(self, body: str, number: str) -> None:
        (self.folder / "comment.md").write_text(body, encoding="utf-8")
        (self.folder / "pull-request.txt").write_text(number, encoding="utf-8")

    def post(self) -> dict[str, Any]:
        steps = _read(EXAMPLE / "mergegate-comment.yml")["jobs"]["comment"]["steps"]
        (step,) = [step for step in steps if "github-script" in step["uses"]]
        assert "${{" not in step["with"]["script"]
        state = {
            "script": step["with"]["script"],
            "pulls": {"7": {"head": self.head}},
            "comments": self.comments,
            "run": {
                "head_sha": "abc", "head_branch": "topic", "html_url": "https://example.invalid/1",
                "head_repository": {"full_name": "fork/r"},
            },
        }  # fmt: skip
        done = subprocess.run(
            ["node", "--eval", HARNESS],
            input=json.dumps(state),
            capture_output=True,
            encoding="utf-8",
            check=True,
            env={"FOLDER": str(self.folder), "PATH": os.environ["PATH"]},
        )
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def writes(self, said: dict[str, Any]) -> list[Any]:
        return [call for call in said["calls"] if call[0] in {"create", "update"}]

    def test_the_first_comment(self) -> None:
        said = self.post()
        ((kind, given),) = self.writes(said)
        assert (kind, given["issue_number"], given["owner"]) == ("create", 7, "o")
        assert given["body"].startswith("<!-- pytest-mergegate -->\n# Merge gates: fail\n")
        assert "https://example.invalid/1#artifacts" in given["body"]

    def test_the_same_comment_is_kept_up_to_date(self) -> None:
        ours = "<!-- pytest-mergegate -->\nold"
        self.comments = [
            {"id": 1, "user": {"login": "mallory"}, "body": ours},
            {"id": 2, "user": None, "body": ours},
            {"id": 3, "user": {"login": "github-actions[bot]"}, "body": "another's"},
            {"id": 4, "user": {"login": "github-actions[bot]"}, "body": ours},
        ]
        ((kind, given),) = self.writes(self.post())
        assert (kind, given["comment_id"]) == ("update", 4)

    def test_nobody_is_called(self) -> None:
        self.write("hello @everyone and a@b.c", "7")
        ((_, given),) = self.writes(self.post())
        assert "@e" not in given["body"]
        assert "@\u200beveryone" in given["body"]

    @pytest.mark.parametrize("number", ["", "7x", "-7", "7 8", "0", "0x7", "9" * 19, "9" * 30])
    def test_numbers_that_are_none(self, number: str) -> None:
        self.write("text", number)
        said = self.post()
        assert said["error"]
        assert said["calls"] == []

    @pytest.mark.parametrize(
        "head",
        [
            {"ref": "other"},
            {"repo": {"full_name": "victim/r"}},
            {"repo": None},
        ],
    )
    def test_another_s_pull_request(self, head: dict[str, Any]) -> None:
        self.head |= head
        said = self.post()
        assert said["error"] == "pull request 7 is not the one that was gated"
        assert not self.writes(said)

    def test_a_pull_request_that_has_moved_on(self) -> None:
        self.head["sha"] = "def"
        said = self.post()
        assert [call[0] for call in said["calls"]] == ["notice"]
        assert "error" not in said

    def test_a_body_that_is_too_long(self) -> None:
        self.write("@" * 40_000, "7")
        said = self.post()
        assert "longer than GitHub takes" in said["error"]
        self.write("x" * 300_000, "7")
        assert "at most" in self.post()["error"]

    def test_links_are_not_followed(self) -> None:
        (self.folder / "comment.md").unlink()
        (self.folder / "comment.md").symlink_to("/etc/hostname")
        assert "is no file" in self.post()["error"]

    def test_it_runs_on_pull_requests_only_and_runs_nothing_of_theirs(self) -> None:
        text = (EXAMPLE / "mergegate-comment.yml").read_text(encoding="utf-8")
        assert "github.event.workflow_run.event == 'pull_request'" in text
        assert "checkout@" not in text
        (job,) = _read(EXAMPLE / "mergegate-comment.yml")["jobs"].values()
        assert all("run" not in step for step in job["steps"])
        assert _read(EXAMPLE / "mergegate-comment.yml")[True]["workflow_run"]["workflows"] == [
            _read(EXAMPLE / "mergegate.yml")["name"]
        ]
