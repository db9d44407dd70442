"""mergekit configurations on the command line: collected, gated, and still mergekit's own."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pools import write_jsonl
from warm import commands

from plugin.test_cli import mergegate
from pytest_mergegate import Report, assess

if TYPE_CHECKING:
    from pathlib import Path

    from plugin.gates import Gates

ON = "--mergegate"


class Configs:
    """Writes mergekit configurations whose models are those of the shared pool."""

    def __init__(self, gates: Gates) -> None:
        self.folder, self.pool = gates.folder, gates.shared.parent

    def write(self, method: str = "linear", name: str = "merge.yml", **more: Any) -> Path:
        """A configuration of a, b and c; ``more`` replaces keys of it."""
        base = str(self.pool / "base")
        models = [{"model": f"{base}+{self.pool / 'adapters' / n}"} for n in "abc"]
        config: dict[str, Any] = {
            "merge_method": method,
            "models": models,
            "parameters": {"weight": 1.0},
            "dtype": "float32",
            "mergegate": {"examples": str(self.pool / "data" / "{name}.jsonl")},
        }
        path = self.folder / name
        path.write_text(yaml.safe_dump(config | more, sort_keys=False), encoding="utf-8")
        return path

    def section(self, **more: Any) -> dict[str, Any]:
        """What stands under ``mergegate:``."""
        return {"examples": str(self.pool / "data" / "{name}.jsonl"), **more}


@pytest.fixture
def configs(gates: Gates) -> Configs:
    return Configs(gates)


class TestCollection:
    def test_where_it_is_named(self, pytester: pytest.Pytester, configs: Configs) -> None:
        path = configs.write()
        result = pytester.runpytest(ON, "--collect-only", "-q", path)
        nodes = [f"merge.yml::{name}" for name in ("a", "b", "c", "pool")]
        assert result.outlines[:4] == nodes

    def test_not_where_it_is_not(self, pytester: pytest.Pytester, configs: Configs) -> None:
        configs.write()
        result = pytester.runpytest(ON)
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED

    def test_skipped_where_the_gates_are_off(
        self, pytester: pytest.Pytester, configs: Configs
    ) -> None:
        pytester.runpytest(configs.write()).assert_outcomes(skipped=4)

    def test_reports_point_at_the_model_s_line(
        self, pytester: pytest.Pytester, configs: Configs
    ) -> None:
        path = configs.write()
        lines = path.read_text("utf-8").splitlines()
        items, _ = pytester.inline_genitems(ON, path)
        (own,) = [item for item in items if item.name == "b"]
        assert lines[own.location[1] or 0].endswith("adapters/b")


class TestExitCodes:
    @pytest.mark.parametrize(("limit", "code"), [("1e9", 0), ("0", 1)])
    def test_caps_are_the_budget(
        self, pytester: pytest.Pytester, configs: Configs, limit: str, code: int
    ) -> None:
        path = configs.write(mergegate=configs.section(budget={"max_mds": 1e9}))
        assert pytester.runpytest(ON, "--mergegate-max-mds", limit, path).ret == code
        assert mergegate("check", path, "--max-mds", limit) == code

    def test_what_cannot_be_read(self, pytester: pytest.Pytester, configs: Configs) -> None:
        path = configs.write(merge_methods="ties")
        result = pytester.runpytest(ON, path)
        assert result.ret == pytest.ExitCode.INTERRUPTED
        said = "*merge.yml:*: unknown key 'merge_methods' (fix: did you mean 'merge_method'?)*"
        result.stdout.fnmatch_lines([said])
        assert mergegate("check", path) == 2

    def test_without_examples(self, configs: Configs, capsys: pytest.CaptureFixture[str]) -> None:
        assert mergegate("check", configs.write(mergegate={})) == 2
        output = capsys.readouterr().out
        assert "write data/a.jsonl or examples/a.jsonl beside the configuration" in output


def test_examples_in_their_usual_place(configs: Configs) -> None:
    (configs.folder / "data").mkdir()
    for name in "abc":
        write_jsonl(configs.folder / "data" / f"{name}.jsonl", [{"input": f"{name}:x="}])
    report = assess(configs.write(mergegate={}), max_mds=1e9)
    assert report.status == "pass"


def of(report: Report) -> list[tuple[str, Any, Any]]:
    """What a merge did to each expert."""
    (merge,) = report.merges
    return [(e.name, e.disagreement, round(e.kl or 0.0, 4)) for e in merge.experts]


@pytest.mark.slow
@pytest.mark.usefixtures("any_base", "forked_mergekit")
def test_what_mergekit_runs_itself_is_judged_alike(
    configs: Configs, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gradient from 1 to 1 is no number to the gate, and 1 to mergekit."""
    own = configs.section(budget={"max_disagreement": 1.0})
    plain = assess(configs.write(mergegate=own), cache=False)
    gradient = {"weight": [1.0, 1.0]}
    run = assess(configs.write(mergegate=own, parameters=gradient), cache=False)
    assert (plain.status, run.status) == ("pass", "pass")
    assert of(run) == of(plain)
    assert run.merges[0].method == "linear"


@pytest.mark.slow
def test_another_architecture_is_refused(configs: Configs) -> None:
    models = [f"{configs.pool / 'base'}+{configs.pool / 'adapters' / n}" for n in "ab"]
    ranges = ([0, 2], [0, 1])
    slices = [{"sources": [{"model": m, "layer_range": r} for m in models]} for r in ranges]
    path = configs.write(slices=slices)
    data = yaml.safe_load(path.read_text("utf-8"))
    del data["models"]
    path.write_text(yaml.safe_dump(data), "utf-8")
    report = assess(path, max_disagreement=1.0)
    assert report.status == "error"
    assert "add up to 3 layers, the base has 2" in report.findings[-1].message


@pytest.mark.slow
@pytest.mark.usefixtures("forked_mergekit")
def test_a_setting_that_mergekit_refuses(configs: Configs) -> None:
    report = assess(configs.write(parameters={}), max_disagreement=1.0)
    assert report.status == "error"
    assert "Missing required parameter weight" in report.findings[-1].message


@pytest.mark.slow
def test_mergekit_takes_the_same_file(configs: Configs, tmp_path: Path) -> None:
    """Its own key among the others is passed over by mergekit's own command."""
    path, out = configs.write(), tmp_path / "out"
    python = commands() / "python"
    command = [python, "-m", "mergekit.scripts.run_yaml", path, out, "--quiet"]
    cache = ["--lora-merge-cache", tmp_path / "lora"]
    subprocess.run([str(part) for part in (*command, *cache)], check=True, capture_output=True)
    assert json.loads((out / "config.json").read_text("utf-8"))["model_type"] == "llama"
