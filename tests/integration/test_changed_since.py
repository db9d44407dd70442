"""``mergegate check --changed-since REF``: what is left out would come out as it did before."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pytest
from pools import copy_pool, read_gate, write_gate

from pytest_mergegate.cli.changed_since import GitError, changes_since

if TYPE_CHECKING:
    from pathlib import Path

BUDGET = {"max_conflicting_magnitude_ratio": 1.0}
"""Held by every pool, and no model is loaded for it."""


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody, whatever the machine's own settings are."""
    someone = ("-c", "user.name=x", "-c", "user.email=x@y", "-c", "protocol.file.allow=always")
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        ["git", *someone, *arguments],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    # two commits of the same second and the same words would be one
    git(folder, "commit", "--quiet", "--allow-empty", "-m", secrets.token_hex())


@pytest.fixture
def repository(tiny_pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a gate on a, b and c, whose branch main a feature has just left."""
    folder = tmp_path / "repository"
    write_gate(copy_pool(tiny_pool, folder), read_gate(tiny_pool) | {"budget": BUDGET})
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder)
    git(folder, "switch", "--quiet", "-c", "feature")
    monkeypatch.chdir(folder)
    return folder


def check(*arguments: object) -> int:
    """Run the installed command; its exit code."""
    (command,) = entry_points(group="console_scripts", name="mergegate")
    try:
        return int(command.load()(["check", *map(str, arguments)]))
    except SystemExit as exit:
        return int(exit.code or 0)


def concerned(folder: Path, gate: str = "mergegate.yaml") -> bool:
    return changes_since("main", folder).concern(folder / gate)


def _name_code(gate: dict[str, Any], kind: str, function: str) -> None:
    """Have a gate run a function as an expert's metric or distance, or as its method."""
    if kind == "method":
        gate["merge"] = {"methods": [function]}
    else:
        gate["experts"]["a"][kind] = function


class TestTheCommand:
    def test_nothing_relevant_is_green_and_says_so(
        self, repository: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (repository / "README.md").write_text("new", "utf-8")
        commit(repository)
        assert check("--changed-since", "main", "--report=json:report.json") == 0
        assert capsys.readouterr().out == (
            "no gate is concerned by the changes since main (1 gate looked at): left out "
            "mergegate.yaml\n"
        )
        report = json.loads((repository / "report.json").read_text("utf-8"))
        assert (report["status"], report["reports"]) == ("inconclusive", [])  # that is no pass

    def test_only_the_gate_concerned_runs(
        self, repository: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = read_gate(repository / "mergegate.yaml")
        other["experts"] = {k: e for k, e in other["experts"].items() if k != "c"}
        write_gate(repository / "two.mergegate.yaml", other)
        git(repository, "switch", "--quiet", "main")
        commit(repository)
        git(repository, "switch", "--quiet", "-c", "next")
        with (repository / "data" / "c.jsonl").open("a", encoding="utf-8") as file:
            file.write("\n")
        assert check("--changed-since", "main") == 0
        out = capsys.readouterr().out
        assert "left out: two.mergegate.yaml" in out
        assert "PASS mergegate.yaml" in out
        assert "PASS two" not in out

    def test_an_unreadable_gate_is_never_left_out(
        self, repository: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        git(repository, "switch", "--quiet", "main")
        (repository / "bad.mergegate.yaml").write_text("experts: [", "utf-8")
        commit(repository)
        git(repository, "switch", "--quiet", "-c", "next")
        assert check("--changed-since", "main") == 2
        assert "left out: mergegate.yaml" in capsys.readouterr().out

    def test_a_changed_baseline_concerns_every_gate(self, repository: Path) -> None:
        (repository / "baseline.json").write_text(
            '{"schema": "pytest-mergegate/reports/1", "status": "inconclusive", "reports": []}',
            "utf-8",
        )
        options = ("--changed-since", "main", "--baseline", "baseline.json")
        assert check(*options, "--report=json") == 0
        assert (repository / "mergegate-report.json").exists()

    @pytest.mark.parametrize(
        ("budget", "cap", "rests"),
        [
            ({"max_loss": 50}, (), True),
            ({"max_mds": "auto@0.1"}, (), True),
            (BUDGET, ("--max-loss", "50"), True),
            (BUDGET, (), False),
        ],
        ids=str,
    )
    def test_a_changed_registry_concerns_gates_that_rest_on_it(
        self,
        repository: Path,
        budget: dict[str, object],
        cap: tuple[str, ...],
        rests: bool,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        git(repository, "switch", "--quiet", "main")
        write_gate(
            repository / "mergegate.yaml",
            read_gate(repository / "mergegate.yaml") | {"budget": budget},
        )
        commit(repository)
        git(repository, "switch", "--quiet", "-c", "next")
        options = ("--changed-since", "main", "--stage", "preflight", *cap)
        assert check(*options) == 0
        assert "no gate is concerned" in capsys.readouterr().out
        (repository / "mergegate.registry.jsonl").touch()  # as a run leaves it
        check(*options)
        assert "no gate is concerned" in capsys.readouterr().out
        commit(repository)
        check(*options)
        assert ("no gate is concerned" in capsys.readouterr().out) != rests
        check(*options, "--no-registry")
        assert "no gate is concerned" in capsys.readouterr().out

    def test_no_gates_at_all(self, repository: Path, tmp_path: Path) -> None:
        (repository / "docs").mkdir()
        assert check("docs", "--changed-since", "main") == 5

    def test_fewer_gates_than_required(
        self, repository: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert check(".", "--require-gates", "2") == 5
        assert "1 gates found, --require-gates 2" in capsys.readouterr().err
        assert check(".", "--require-gates", "1", "--changed-since", "main") == 0

    def test_bad_options(self, repository: Path, tmp_path: Path) -> None:
        assert check() == 4
        assert check("mergegate.yaml", "--changed-since", "main", "--output", "merged") == 4


class TestGitCannotTell:
    def said(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
        assert check(*arguments) == 4
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return err

    @pytest.mark.parametrize("reference", ["nowhere", "", "--all", "main..feature"])
    def test_no_such_commit(
        self, repository: Path, capsys: pytest.CaptureFixture[str], reference: str
    ) -> None:
        err = self.said(capsys, f"--changed-since={reference}")
        assert "there is no commit" in err

    def test_no_repository(
        self,
        repository: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shutil.rmtree(repository / ".git")
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
        assert "not a git repository" in self.said(capsys, "--changed-since", "main")
        assert "not a git repository" in self.said(capsys, ".", "--changed-since", "main")

    def test_no_git(
        self,
        repository: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("PATH", "")
        assert "git cannot be run" in self.said(capsys, ".", "--changed-since", "main")

    def test_a_shallow_clone(
        self,
        repository: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        commit(repository)
        git(repository, "switch", "--quiet", "main")
        commit(repository)
        git(repository, "switch", "--quiet", "feature")
        source = repository.as_uri()
        git(tmp_path, "clone", "--quiet", "--depth=1", "--no-single-branch", source, "clone")
        monkeypatch.chdir(tmp_path / "clone")
        assert "fetch-depth: 0" in self.said(capsys, "--changed-since", "origin/main")
        git(tmp_path, "clone", "--quiet", "--depth=1", source, "lone")
        monkeypatch.chdir(tmp_path / "lone")
        assert "fetch-depth: 0" in self.said(capsys, "--changed-since", "origin/main")

    def test_histories_that_never_met(
        self, repository: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        git(repository, "switch", "--quiet", "--orphan", "apart")
        git(repository, "checkout", "main", "--", ".")
        commit(repository)
        assert "share no history" in self.said(capsys, "--changed-since", "main")


class TestWhatConcernsAGate:
    def test_nothing(self, repository: Path) -> None:
        assert not concerned(repository)
        (repository / "adapters-old").mkdir()
        (repository / "adapters-old" / "a").write_text("only a name alike", "utf-8")
        assert not concerned(repository)

    @pytest.mark.parametrize(
        "file",
        [
            "mergegate.yaml",
            "base/config.json",
            "adapters/a/adapter_model.safetensors",
            "data/b.jsonl",
        ],
    )
    @pytest.mark.parametrize("how", ["edited", "staged", "committed", "deleted", "renamed"])
    def test_what_it_reads(self, repository: Path, file: str, how: str) -> None:
        path = repository / file
        text = path.read_bytes()
        if how == "deleted":
            path.unlink()
        elif how == "renamed":
            path.rename(repository / "elsewhere")
        else:
            path.write_bytes(text + b"\n")
        if how in {"staged", "committed", "renamed"}:
            git(repository, "add", "--all")
        if how in {"committed", "renamed"}:
            commit(repository)
        if file == "mergegate.yaml" and not path.exists():
            path.write_bytes(text + b"\n")  # a gate that is gone is not gated
        assert concerned(repository)

    def test_an_untracked_file(self, repository: Path) -> None:
        (repository / "adapters" / "a" / "special_tokens_map.json").write_text("{}", "utf-8")
        assert concerned(repository)

    def test_a_removal_from_the_index_alone(self, repository: Path) -> None:
        git(repository, "rm", "--quiet", "--cached", "data/a.jsonl")
        assert concerned(repository)

    def test_what_main_changed_meanwhile_does_not(self, repository: Path) -> None:
        git(repository, "switch", "--quiet", "main")
        (repository / "data" / "a.jsonl").write_text('{"input": "x"}\n', "utf-8")
        commit(repository)
        git(repository, "switch", "--quiet", "feature")
        assert not concerned(repository)

    @pytest.mark.parametrize("name", ["ä ö.jsonl", 'quo"te.jsonl', "new\nline.jsonl", "-n.jsonl"])
    def test_awkward_names(self, repository: Path, name: str) -> None:
        (repository / "data" / "a.jsonl").rename(repository / "data" / name)
        gate = read_gate(repository / "mergegate.yaml")
        gate["experts"]["a"]["examples"] = f"data/{name}"
        write_gate(repository / "mergegate.yaml", gate)
        commit(repository)
        git(repository, "branch", "--quiet", "--force", "main")
        assert not concerned(repository)
        with (repository / "data" / name).open("a", encoding="utf-8") as file:
            file.write("\n")
        assert concerned(repository)

    def test_from_a_folder_below_and_with_settings_of_git(self, repository: Path) -> None:
        git(repository, "config", "diff.relative", "true")
        git(repository, "config", "diff.renames", "copies")
        git(repository, "config", "diff.ignoreSubmodules", "all")
        (repository / "data" / "a.jsonl").write_text('{"input": "x"}\n', "utf-8")
        gate = repository / "mergegate.yaml"
        assert changes_since("main", repository / "adapters").concern(gate)

    def test_links(self, repository: Path) -> None:
        store = repository / "store"
        (repository / "adapters" / "a").rename(store)
        (repository / "current").symlink_to("store")
        (repository / "adapters" / "a").symlink_to("../current")
        (repository / "spare").mkdir()
        (repository / "blob").write_bytes((store / "adapter_model.safetensors").read_bytes())
        (store / "adapter_model.safetensors").unlink()
        (store / "adapter_model.safetensors").symlink_to("../blob")
        commit(repository)
        git(repository, "branch", "--quiet", "--force", "main")
        assert not concerned(repository)
        for touched in ("blob", "store/adapter_config.json"):  # behind the links
            kept = (repository / touched).read_bytes()
            (repository / touched).write_bytes(kept + b"\n")
            assert concerned(repository), touched
            (repository / touched).write_bytes(kept)
        assert not concerned(repository)
        (repository / "current").unlink()  # a link on the way leads elsewhere
        (repository / "current").symlink_to("spare")
        assert concerned(repository)

    def test_a_link_into_itself_ends(self, repository: Path) -> None:
        (repository / "adapters" / "a" / "loop").symlink_to("loop/deeper")
        assert concerned(repository)

    def test_a_submodule(self, repository: Path, tmp_path: Path) -> None:
        library = tmp_path / "library"
        shutil.copytree(repository / "adapters" / "a", library / "a")
        git(library, "init", "--quiet")
        commit(library)
        shutil.rmtree(repository / "adapters" / "a")
        git(repository, "submodule", "--quiet", "add", str(library), "library")
        gate = read_gate(repository / "mergegate.yaml")
        gate["experts"]["a"]["path"] = "library/a"
        write_gate(repository / "mergegate.yaml", gate)
        commit(repository)
        git(repository, "branch", "--quiet", "--force", "main")
        assert not concerned(repository)
        (repository / "library" / "a" / "adapter_config.json").write_text("{}", "utf-8")
        assert concerned(repository)  # within
        commit(repository / "library")
        commit(repository)
        assert concerned(repository)  # another commit of it

    def test_what_git_ignores_may_have_changed(self, repository: Path) -> None:
        (repository / ".gitignore").write_text("*.safetensors\n__pycache__\n", "utf-8")
        (repository / "adapters" / "a" / "__pycache__").mkdir()
        (repository / "adapters" / "a" / "__pycache__" / "x").touch()
        commit(repository)
        git(repository, "branch", "--quiet", "--force", "main")
        assert not concerned(repository)  # tracked all the same
        git(repository, "rm", "-r", "--quiet", "--cached", "adapters/a")
        commit(repository)
        git(repository, "branch", "--quiet", "--force", "main")
        assert concerned(repository)

    def test_a_finished_merge(self, repository: Path) -> None:
        git(repository, "switch", "--quiet", "main")
        gate = read_gate(repository / "mergegate.yaml") | {"merged": "out"}
        write_gate(repository / "out.mergegate.yaml", gate)
        (repository / "out").mkdir()
        (repository / "out" / "config.json").write_text("{}", "utf-8")
        commit(repository)
        git(repository, "switch", "--quiet", "-c", "next")
        assert not concerned(repository, "out.mergegate.yaml")
        (repository / "out" / "config.json").write_text('{"eos_token_id": 2}', "utf-8")
        assert concerned(repository, "out.mergegate.yaml")
        assert not concerned(repository)
        named = {"merged": str(repository / "out")}
        assert changes_since("main", repository).concern(repository / "mergegate.yaml", **named)

    def test_a_glob_from_which_a_folder_is_gone(self, repository: Path) -> None:
        shutil.copytree(repository / "adapters" / "a", repository / "adapters" / "d")
        gate = read_gate(repository / "mergegate.yaml")
        write_gate(
            repository / "mergegate.yaml",
            gate | {"experts": "adapters/*", "examples": "data/{name}.jsonl"},
        )
        commit(repository)
        git(repository, "branch", "--quiet", "--force", "main")
        assert not concerned(repository)
        shutil.rmtree(repository / "adapters" / "d")
        assert concerned(repository)

    def test_a_base_that_only_the_adapters_name(self, repository: Path) -> None:
        gate = read_gate(repository / "mergegate.yaml")
        del gate["base"]
        for name in "abc":
            path = repository / "adapters" / name / "adapter_config.json"
            text = path.read_text("utf-8")
            path.write_text(
                json.dumps(json.loads(text) | {"base_model_name_or_path": "base"}), "utf-8"
            )
        write_gate(repository / "mergegate.yaml", gate)
        commit(repository)
        git(repository, "branch", "--quiet", "--force", "main")
        assert not concerned(repository)
        (repository / "base" / "config.json").write_text("{}", "utf-8")
        assert concerned(repository)

    @pytest.mark.parametrize("kind", ["metric", "distance", "method"])
    def test_code_of_the_teams_own(self, repository: Path, kind: str) -> None:
        gate = read_gate(repository / "mergegate.yaml")
        _name_code(gate, kind, "package.scores:mine")
        write_gate(repository / "mergegate.yaml", gate)
        commit(repository)
        git(repository, "branch", "--quiet", "--force", "main")
        assert not concerned(repository)
        (repository / "helpers.py").write_text("", "utf-8")
        assert concerned(repository)

    @pytest.mark.parametrize("module", ["package/scores.py", "scores.py"])
    @pytest.mark.parametrize("kind", ["metric", "distance", "method"])
    def test_code_that_git_does_not_see(self, repository: Path, kind: str, module: str) -> None:
        gate = read_gate(repository / "mergegate.yaml")
        _name_code(gate, kind, f"{module.removesuffix('.py').replace('/', '.')}:mine")
        write_gate(repository / "mergegate.yaml", gate)
        (repository / ".gitignore").write_text(f"/{module}\n", "utf-8")
        commit(repository)
        git(repository, "branch", "--quiet", "--force", "main")
        assert not concerned(repository)
        (repository / module).parent.mkdir(exist_ok=True)
        (repository / module).write_text("", "utf-8")
        assert concerned(repository)

    def test_a_mergekit_file(self, repository: Path) -> None:
        models = [{"model": f"base+adapters/{name}"} for name in "abc"]
        merge = {"merge_method": "linear", "models": models, "dtype": "float32"}
        write_gate(repository / "merge.yml", merge)
        commit(repository)
        git(repository, "branch", "--quiet", "--force", "main")
        assert not concerned(repository, "merge.yml")
        for file in ("adapters/a/adapter_config.json", "data/b.jsonl", "base/config.json"):
            git(repository, "checkout", "--quiet", "main", "--", ".")
            with (repository / file).open("a", encoding="utf-8") as opened:
                opened.write("\n")
            assert concerned(repository, "merge.yml"), file

    def test_a_commit_that_is_no_name(self, repository: Path) -> None:
        head = git(repository, "rev-parse", "HEAD").strip()
        assert not changes_since(head, repository).concern(repository / "mergegate.yaml")
        with pytest.raises(GitError):
            changes_since("0" * 40, repository)
