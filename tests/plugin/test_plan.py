"""``mergegate plan`` on pools of random experts: exit codes, files, and everything odd."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from peft import PeftModel
from pools import read_jsonl, write_jsonl
from transformers import AutoModelForCausalLM

from plugin.gates import CHEAP
from plugin.test_cli import mergegate
from pytest_mergegate.gate.gatefile import load_gate

if TYPE_CHECKING:
    from plugin.gates import Gates

pytestmark = pytest.mark.usefixtures("any_base")

Capture = pytest.CaptureFixture[str]
LOOSE: dict[str, Any] = {"max_disagreement": 1.0}
TIGHT: dict[str, Any] = {"max_disagreement": 0.0}


def plan_of(path: Path) -> dict[str, Any]:
    """What --json wrote."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    assert found["schema"] == "pytest-mergegate/plan/1"
    return found


class TestExitCodes:
    def test_one_merge_of_all_where_all_pass(self, gates: Gates, capsys: Capture) -> None:
        path = gates.write(budget=LOOSE)
        assert mergegate("plan", path, "--json", "plan.json") == 0
        assert "all 3 experts are forecast to pass as one merge" in capsys.readouterr().out
        plan = plan_of(gates.folder / "plan.json")["plan"]
        assert [group["experts"] for group in plan["groups"]] == [["a", "b", "c"]]
        assert plan["drop"] == []

    def test_none_where_no_two_pass(self, gates: Gates, capsys: Capture) -> None:
        path = gates.write(budget=TIGHT)
        assert mergegate("plan", path, "--json", "plan.json", "--write", "out", "--verify") == 1
        assert "NO PLAN" in capsys.readouterr().out
        plan = plan_of(gates.folder / "plan.json")["plan"]
        assert len(plan["groups"]) == 3
        assert plan["at_least"] == 3
        assert not (gates.folder / "out").exists()

    def test_two_experts(self, gates: Gates) -> None:
        assert mergegate("plan", gates.write(names="ab", budget=LOOSE)) == 0
        assert mergegate("plan", gates.write(names="ab", budget=TIGHT)) == 1

    @pytest.mark.parametrize("gate", ["malformed", "unreadable"])
    def test_what_cannot_be_read(self, gates: Gates, capsys: Capture, gate: str) -> None:
        path: Path = getattr(gates, gate)()
        assert mergegate("plan", path) == 2
        said = capsys.readouterr()
        assert not said.out
        assert "Traceback" not in said.err

    @pytest.mark.parametrize(
        "options",
        [
            ("nowhere.yaml",),
            (),
            ("mergegate.yaml", "--most-trials", "0"),
            ("mergegate.yaml", "--force"),
            ("mergegate.yaml", "--device", "abacus"),
            ("mergegate.yaml", "--json", "nowhere/plan.json"),
            ("mergegate.yaml", "--write", "mergegate.yaml"),
            ("mergegate.yaml", "--candidates", "nothing*"),
            ("mergegate.yaml", "--candidates", "a=nowhere"),
        ],
    )
    def test_bad_options(self, gates: Gates, options: tuple[str, ...]) -> None:
        gates.write(budget=LOOSE)
        assert mergegate("plan", *options) == 4

    def test_a_failure_that_a_baseline_decides_is_no_plan(
        self, gates: Gates, capsys: Capture
    ) -> None:
        path = gates.write(budget={"max_mds_increase": 1.0})
        assert mergegate("plan", path) == 2
        assert "cannot be planned for" in capsys.readouterr().err


class TestBudgetsThatNoMethodChanges:
    def test_conflicts_decide_without_a_merge(self, gates: Gates) -> None:
        assert mergegate("plan", gates.passing()) == 0
        assert mergegate("plan", gates.failing(), "--json", "plan.json") == 1

    def test_one_pair_over_the_limit(self, gates: Gates) -> None:
        report = gates.folder / "report.json"
        mergegate("check", gates.passing(), "--report", f"json:{report}")
        ratios = {
            frozenset((pair["a"], pair["b"])): pair["conflicting_magnitude_ratio"]
            for pair in json.loads(report.read_text())["pairs"]
        }
        worst = max(ratios, key=lambda pair: ratios[pair])
        limit = sorted(ratios.values())[-2]
        path = gates.write(budget={CHEAP: limit})
        assert mergegate("plan", path, "--json", "plan.json", "--verify") == 0
        groups = plan_of(gates.folder / "plan.json")["plan"]["groups"]
        assert sorted(len(group["experts"]) for group in groups) == [1, 2]
        assert all(not worst <= set(group["experts"]) for group in groups)

    def test_mds_of_two_experts_is_no_pass(self, gates: Gates, capsys: Capture) -> None:
        assert mergegate("plan", gates.undecided()) == 1
        assert "no two of 2 experts are forecast to pass" in capsys.readouterr().out

    def test_mds_of_three_is_that_of_their_gate(self, gates: Gates) -> None:
        path = gates.write(budget={"max_mds": 1000.0})
        code = mergegate("check", path)
        assert mergegate("plan", path) == code


class TestFiles:
    def test_what_is_written_is_gated_as_planned(self, gates: Gates) -> None:
        methods = ["linear", {"method": "ties", "density": 0.5}]
        path = gates.write(budget=LOOSE, merge={"methods": methods}, certificate={"per_task": 8})
        assert mergegate("plan", path, "--write", "out", "--verify", "--json", "plan.json") == 0
        found = plan_of(gates.folder / "plan.json")
        (verified,) = found["verified"]
        assert verified["status"] == "pass"
        for merged in verified["merged"]:
            assert merged["disagreement"] == merged["forecast_disagreement"]
        written = gates.folder / "out" / "group-1.mergegate.yaml"
        gate = load_gate(written)
        assert list(gate.spec.experts) == ["a", "b", "c"]
        assert gate.spec.certificate.per_task == 8
        assert gate.spec.budget.limits == LOOSE
        for name in ("group-1.mergegate.yaml", "group-1.mergekit.yaml"):
            assert mergegate("check", gates.folder / "out" / name) == 0

    def test_nothing_is_overwritten_unasked(self, gates: Gates, capsys: Capture) -> None:
        path = gates.write(budget=LOOSE)
        mine = gates.folder / "out" / "group-1.mergekit.yaml"
        mine.parent.mkdir()
        mine.write_text("mine", "utf-8")
        assert mergegate("plan", path, "--write", "out") == 2
        assert "is there already" in capsys.readouterr().err
        assert [file.name for file in mine.parent.iterdir()] == [mine.name]
        assert mine.read_text("utf-8") == "mine"
        assert mergegate("plan", path, "--write", "out", "--force") == 0
        assert mine.read_text("utf-8") != "mine"

    @pytest.mark.parametrize("kind", ["metric", "distance"])
    def test_code_that_lies_beside_the_gate_file(
        self, gates: Gates, capsys: Capture, kind: str
    ) -> None:
        said = "[float(a != b) for a, b in zip(outputs, others)]"
        own = f"def same(outputs, others):\n    return {said}"
        (gates.folder / "mine.py").write_text(own, "utf-8")
        experts = {name: gates.expert(name) for name in "bc"}
        experts["a"] = gates.expert("a", **{kind: "mine:same"})
        path = gates.write(budget=LOOSE, experts=experts)
        assert mergegate("plan", path, "--write", "out") == 2
        assert "by mine:same, which is looked for beside the gate file" in capsys.readouterr().err
        assert not (gates.folder / "out").exists()
        assert mergegate("plan", path, "--write", ".", "--verify") == 0

    def test_a_method_that_lies_beside_the_gate_file(self, gates: Gates, capsys: Capture) -> None:
        text = "def mean(base, experts):\n    return sum(experts.values()) / len(experts)\n"
        (gates.folder / "mine.py").write_text(text, "utf-8")
        path = gates.write(budget=LOOSE, merge={"methods": ["mine:mean"]})
        assert mergegate("plan", path, "--write", "out") == 2
        assert "the pool is merged by mine:mean, which is looked for" in capsys.readouterr().err
        assert mergegate("plan", path, "--write", ".", "--verify") == 0

    def test_names_that_are_hard_to_write(self, gates: Gates) -> None:
        names = {"a": "<script>|%: {x}", "b": "- 'b'", "c": "yes"}
        experts = {own: gates.expert(name) for name, own in names.items()}
        path = gates.write(budget=LOOSE, experts=experts)
        assert mergegate("plan", path, "--write", "out", "--json", "plan.json") == 0
        gate = load_gate(gates.folder / "out" / "group-1.mergegate.yaml")
        assert set(gate.spec.experts) == set(names.values())
        assert mergegate("check", gates.folder / "out" / "group-1.mergekit.yaml") == 0

    def test_a_path_that_mergekit_would_split(self, gates: Gates, capsys: Capture) -> None:
        odd = gates.folder / "a+b"
        odd.symlink_to(gates.shared.parent / "base")  # resolved, it is no such path
        copy = gates.folder / "c@d"
        _copy(gates.shared.parent / "adapters" / "a", copy)
        experts = {k: gates.expert(k) for k in "bc"} | {"a": gates.expert("a", path=str(copy))}
        path = gates.write(budget=LOOSE, experts=experts)
        assert mergegate("plan", path, "--write", "out") == 0
        assert "mergekit cannot read the path" in capsys.readouterr().err
        assert [f.name for f in (gates.folder / "out").iterdir()] == ["group-1.mergegate.yaml"]

    @pytest.mark.parametrize("method", ["linear", "task_arithmetic", "slerp"])
    def test_checkpoints_need_their_base_said(self, gates: Gates, method: str) -> None:
        base = gates.shared.parent / "base"
        experts = {}
        for name in "ab":
            folder = gates.folder / f"full-{name}"
            model = AutoModelForCausalLM.from_pretrained(base)
            adapter = gates.shared.parent / "adapters" / name
            merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
            merged.save_pretrained(folder)
            experts[name] = gates.expert(name, path=str(folder))
        path = gates.write(budget=LOOSE, experts=experts, merge={"methods": [method]})
        assert mergegate("plan", path, "--write", "out", "--verify") == 0
        assert mergegate("check", gates.folder / "out" / "group-1.mergekit.yaml") == 0
        data = yaml.safe_load((gates.folder / "out" / "group-1.mergekit.yaml").read_text("utf-8"))
        assert (method == "task_arithmetic") == ("base" not in data["mergegate"])


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


class TestLosses:
    def test_a_loss_on_few_examples_is_not_promised(self, gates: Gates, capsys: Capture) -> None:
        few = gates.folder / "few.jsonl"
        write_jsonl(few, read_jsonl(gates.shared.parent / "data" / "a.jsonl")[:5])
        experts = {k: gates.expert(k) for k in "bc"}
        experts["a"] = gates.expert("a", examples=str(few))
        path = gates.write(budget={"max_loss": 100.0}, experts=experts)
        mergegate("plan", path, "--json", "plan.json")
        groups = plan_of(gates.folder / "plan.json")["plan"]["groups"]
        assert ["a"] in [group["experts"] for group in groups]

    def test_every_method_has_to_do(self, gates: Gates) -> None:
        methods = ["linear", {"method": "task_arithmetic", "weight": 0.5}]
        for select in ("any", "all"):
            path = gates.write(budget=LOOSE, merge={"methods": methods, "select": select})
            assert mergegate("plan", path, "--json", "plan.json", "--verify") == 0
            (verified,) = plan_of(gates.folder / "plan.json")["verified"]
            assert verified["status"] == "pass"


class TestCandidates:
    def test_both_orders(self, gates: Gates, capsys: Capture) -> None:
        path = gates.write(names="ab", budget=TIGHT, examples=_template(gates))
        adapters = gates.shared.parent / "adapters"
        assert mergegate("plan", path, "--candidates", f"{adapters}/*", "--json", "p.json") == 1
        (found,) = plan_of(gates.folder / "p.json")["plan"]["replacements"]
        assert found["order"] == "forecast", "two experts have no MDS"
        assert [stand["name"] for stand in found["candidates"]] == ["c"]
        assert "in place of" in capsys.readouterr().out

    def test_one_without_inputs(self, gates: Gates, capsys: Capture) -> None:
        path = gates.write(names="ab", budget=TIGHT)
        adapter = gates.shared.parent / "adapters" / "c"
        assert mergegate("plan", path, "--candidates", f"new={adapter}") == 4
        assert "no inputs for new" in capsys.readouterr().err


def _template(gates: Gates) -> str:
    return str(gates.shared.parent / "data" / "{name}.jsonl")


def test_a_configuration_that_mergekit_alone_can_merge(gates: Gates, capsys: Capture) -> None:
    pool = gates.shared.parent
    config = {
        "merge_method": "linear",
        "models": [{"model": f"{pool}/base+{pool}/adapters/{name}"} for name in "ab"],
        "base_model": str(pool / "base"),
        "parameters": {"weight": [0.1, 0.9]},
        "dtype": "float32",
        "mergegate": {"examples": _template(gates)},
    }
    path = gates.folder / "merge.yml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    assert mergegate("plan", path) == 2
    assert "cannot be planned for this mergekit configuration" in capsys.readouterr().err


def test_the_report_of_a_failing_gate_says_what_would_pass(gates: Gates) -> None:
    path = gates.write(budget=TIGHT)
    assert mergegate("check", path, "--report", "json:report.json") == 1
    plan = json.loads((gates.folder / "report.json").read_text())["plan"]
    assert sorted(name for group in plan["groups"] for name in group["experts"]) == ["a", "b", "c"]
    assert plan["at_least"] >= 2
    for group in plan["groups"]:
        assert all(merge["basis"] in {"states", "probes"} for merge in group["merges"])
    passing = gates.write(budget=LOOSE)
    assert mergegate("check", passing, "--report", "json:report.json") == 0
    plan = json.loads((gates.folder / "report.json").read_text())["plan"]
    assert not plan["groups"]


def test_the_benchmark_of_plans_gates_what_they_propose(
    gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    module = importlib.import_module("plan")
    gate = load_gate(gates.write(names="ab", budget=LOOSE))
    (outcome,), seconds = module.run(gate, "any", gates.folder / "cache")
    assert (outcome.group, outcome.status) == (("a", "b"), "pass")
    assert 0 <= outcome.expected <= 1
    assert seconds > 0
