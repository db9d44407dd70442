"""``@mergeable``: where its pool comes from, when the body runs, and what fixtures hand out."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from pools import read_gate, write_gate
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from plugin.gates import CHEAP
from pytest_mergegate import plugin
from pytest_mergegate.gate.budget import Budget
from pytest_mergegate.gate.spec import GateSpec

if TYPE_CHECKING:
    from pathlib import Path

    from plugin.gates import Gates

ON = "--mergegate"
HEADER = """
from pathlib import Path
import pytest
from pytest_mergegate import mergeable
"""


def run(pytester: pytest.Pytester, test: str, *args: str) -> pytest.RunResult:
    """Run one module of tests, without the gate files around it."""
    pytester.makepyfile(test_it=HEADER + test)
    return pytester.runpytest(ON, *args, "test_it.py")


def ran(pytester: pytest.Pytester) -> bool:
    """Whether the body of the test got as far as its first line."""
    return (pytester.path / "ran").exists()


class TestSeveralMarkers:
    def test_two_pools_are_refused(self, pytester: pytest.Pytester, gates: Gates) -> None:
        """The inner pool must not take the outer one's gate away."""
        gates.failing("bad.mergegate.yaml")
        gates.passing("good.mergegate.yaml")
        test = "@mergeable('bad.mergegate.yaml')\n@mergeable('good.mergegate.yaml')\n"
        result = run(pytester, f"{test}def test_pool(): pass")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*several mergeable markers name a pool*"])

    def test_outer_typo_is_refused(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        test = "@mergeable(max_md=1)\n@mergeable('mergegate.yaml')\ndef test_pool(): pass"
        assert run(pytester, test).ret == pytest.ExitCode.USAGE_ERROR

    @pytest.mark.parametrize(("limit", "outcome"), [(1.0, "passed"), (0.0, "failed")])
    def test_class_names_the_pool_and_method_the_limit(
        self, pytester: pytest.Pytester, gates: Gates, limit: float, outcome: str
    ) -> None:
        gates.write("own.mergegate.yaml", budget={CHEAP: 1.0})
        test = (
            "@mergeable('own.mergegate.yaml')\nclass TestPool:\n"
            f"    @mergeable({CHEAP}={limit})\n    def test_pool(self): pass"
        )
        run(pytester, test).assert_outcomes(**{outcome: 1})


def test_a_pool_that_changes_is_assessed_again(pytester: pytest.Pytester, gates: Gates) -> None:
    """The gate file stays the same to the letter; an adapter it names is another one."""
    pool = gates.shared.parent
    shutil.copytree(pool, pytester.path / "pool")
    gate = pytester.path / "pool" / "mergegate.yaml"
    write_gate(gate, read_gate(gate) | {"budget": {CHEAP: 1.0}})
    result = run(
        pytester,
        """
import shutil
POOL = Path("pool").absolute()
@mergeable(str(POOL / "mergegate.yaml"))
def test_before(merge_report):
    shutil.rmtree(POOL / "adapters" / "a")
@mergeable(str(POOL / "mergegate.yaml"))
def test_after(): pass
""",
    )
    result.assert_outcomes(passed=1, errors=1)


class TestPool:
    def test_a_path_beside_the_test(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing("mergegate.yaml")
        gates.passing("sub/mergegate.yaml")
        pytester.makepyfile(
            **{"sub/test_it": f"{HEADER}@mergeable('mergegate.yaml')\ndef test_pool(): pass"}
        )
        pytester.runpytest(ON, "sub/test_it.py").assert_outcomes(passed=1)

    def test_a_path_in_the_rootdir(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing("gates/own.yaml")
        pytester.makepyfile(
            **{"sub/test_it": f"{HEADER}@mergeable('gates/own.yaml')\ndef test_pool(): pass"}
        )
        pytester.makeini("[pytest]")
        pytester.runpytest(ON, "sub/test_it.py").assert_outcomes(passed=1)

    def test_base_and_experts_in_place(self, pytester: pytest.Pytester, gates: Gates) -> None:
        given = f"base={gates.spec()['base']!r}, experts={gates.spec()['experts']!r}"
        result = run(pytester, f"@mergeable({given}, {CHEAP}=1.0)\ndef test_pool(): pass")
        result.assert_outcomes(passed=1)
        result = run(pytester, f"@mergeable({given}, {CHEAP}=0.0)\ndef test_pool(): pass")
        result.assert_outcomes(failed=1)

    def test_a_mapping(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gate = gates.spec(budget={CHEAP: 1.0})
        run(pytester, f"@mergeable({gate!r})\ndef test_pool(): pass").assert_outcomes(passed=1)

    def test_the_module_s_own_merge_pool(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing()
        gates.passing("own.yaml")
        body = """
@pytest.fixture
def merge_pool(): return "own.yaml"

@mergeable()
def test_pool(): pass
"""
        run(pytester, body).assert_outcomes(passed=1)

    def test_a_conftest_s_merge_pool(self, pytester: pytest.Pytester, gates: Gates) -> None:
        pytester.makeconftest(
            f"import pytest\n@pytest.fixture\ndef merge_pool(): return {gates.spec()!r}"
        )
        run(pytester, f"@mergeable({CHEAP}=1.0)\ndef test_a(): pass").assert_outcomes(passed=1)
        run(pytester, f"@mergeable({CHEAP}=0.0)\ndef test_a(): pass").assert_outcomes(failed=1)

    def test_a_parametrised_merge_pool(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing("a.yaml")
        gates.failing("b.yaml")
        result = run(
            pytester,
            "@pytest.mark.parametrize('merge_pool', ['a.yaml', 'b.yaml'])\n"
            "@mergeable()\ndef test_pool(merge_pool): pass",
            "-v",
        )
        result.stdout.fnmatch_lines(["*[[]a.yaml[]] PASSED*", "*[[]b.yaml[]] FAILED*"])

    def test_ini_mergegate_files(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing()
        gates.passing("own.yaml")
        pytester.makeini("[pytest]\nmergegate_files = own.yaml")
        run(pytester, "@mergeable()\ndef test_pool(): pass").assert_outcomes(passed=1)

    def test_several_of_them_are_no_choice(self, pytester: pytest.Pytester, gates: Gates) -> None:
        pytester.makeini("[pytest]\nmergegate_files =\n  a.yaml\n  b.yaml")
        result = run(pytester, "@mergeable()\ndef test_pool(): pass")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["mergegate_files lists 2 gate files; say which one *"])

    def test_the_rootdir_s_gate_file(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        run(pytester, "@mergeable()\ndef test_pool(): pass").assert_outcomes(passed=1)
        run(pytester, "@mergeable\ndef test_pool(): pass").assert_outcomes(passed=1)

    def test_no_pool_at_all(self, pytester: pytest.Pytester, gates: Gates) -> None:
        result = run(pytester, "@mergeable(max_mds=3)\ndef test_pool(): Path('ran').touch()")
        result.assert_outcomes(errors=1)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["no pool to gate: give @mergeable a gate file, *"])
        assert not ran(pytester)

    @pytest.mark.parametrize(
        ("pool", "said"),
        [
            ("'none.yaml'", "*none.yaml: the gate file cannot be read*"),
            ("3", "a pool cannot be made of int*"),
            ("base='b'", "<mergeable>: 'experts' is missing*"),
            ("max_mds='three', base='b', experts={'a': 'x', 'b': 'y'}", "*max_mds: *'three'"),
        ],
    )
    def test_a_pool_that_is_none(
        self, pytester: pytest.Pytester, gates: Gates, pool: str, said: str
    ) -> None:
        result = run(pytester, f"@mergeable({pool})\ndef test_pool(): Path('ran').touch()")
        result.assert_outcomes(errors=1)
        assert result.ret == pytest.ExitCode.INTERRUPTED
        result.stdout.fnmatch_lines([said])
        assert not ran(pytester)


class TestBudget:
    def test_the_marker_s_limits_override_the_gate_file_s(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.failing()
        marked = f"@mergeable('mergegate.yaml', {CHEAP}=1.0)\ndef test_pool(): pass"
        run(pytester, marked).assert_outcomes(passed=1)

    def test_caps_hold_for_markers_too(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        marked = "@mergeable('mergegate.yaml', max_mds=1e9)\ndef test_pool(): pass"
        run(pytester, marked).assert_outcomes(passed=1)
        run(pytester, marked, "--mergegate-max-mds=0").assert_outcomes(failed=1)

    def test_the_body_runs_once_the_budgets_hold(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.passing()
        body = "@mergeable()\ndef test_pool(): Path('ran').touch(); assert 1 == 2"
        result = run(pytester, body)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E*assert 1 == 2"])
        assert ran(pytester)

    @pytest.mark.parametrize("gate", ["failing", "undecided"])
    def test_the_body_does_not_run_over_budget(
        self, pytester: pytest.Pytester, gates: Gates, gate: str
    ) -> None:
        getattr(gates, gate)()
        result = run(pytester, "@mergeable()\ndef test_pool(): Path('ran').touch()")
        result.assert_outcomes(failed=1)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["[23] of [23] experts not within budget: a, b*", "  a: *"])
        result.stdout.no_fnmatch_line("*site-packages*")
        assert not ran(pytester)

    def test_undecided_may_only_warn(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.undecided()
        pytester.makeini("[pytest]\nmergegate_on_inconclusive = warn")
        result = run(pytester, "@mergeable()\ndef test_pool(): Path('ran').touch()")
        result.assert_outcomes(passed=1, warnings=1)
        assert ran(pytester)

    def test_an_expert_that_cannot_be_read(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.unreadable()
        result = run(pytester, "@mergeable()\ndef test_pool(): Path('ran').touch()")
        result.assert_outcomes(errors=1)
        assert result.ret == pytest.ExitCode.INTERRUPTED
        result.stdout.fnmatch_lines(["MG001 b: mergegate.yaml:*"])
        result.stdout.no_fnmatch_line("*site-packages*")
        assert not ran(pytester)

    def test_closest_marker(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        result = run(
            pytester,
            f"""
pytestmark = mergeable({CHEAP}=0.0)

def test_module(): pass

@mergeable({CHEAP}=1.0)
class TestClass:
    def test_class(self): pass

    @mergeable({CHEAP}=0.0)
    def test_method(self): pass
""",
            "-v",
        )
        result.stdout.fnmatch_lines(
            ["*::test_module FAILED*", "*::test_class PASSED*", "*::test_method FAILED*"]
        )

    def test_a_unittest_method(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        result = run(
            pytester,
            f"""
import unittest

class TestOld(unittest.TestCase):
    @mergeable({CHEAP}=1.0)
    def test_within(self): pass

    @mergeable({CHEAP}=0.0)
    def test_over(self): Path("ran").touch()
""",
        )
        result.assert_outcomes(passed=1, failed=1)
        assert not ran(pytester)

    def test_parameters(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        marked = "@pytest.mark.parametrize('x', [1, 2])\n@mergeable()\ndef test_pool(x): pass"
        run(pytester, marked).assert_outcomes(passed=2)

    def test_an_expected_failure(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing()
        marked = "@pytest.mark.xfail(strict=True)\n@mergeable()\ndef test_pool(): pass"
        result = run(pytester, marked)
        result.assert_outcomes(xfailed=1)
        assert result.ret == pytest.ExitCode.OK

    def test_an_expected_failure_hides_no_error(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.unreadable()
        result = run(pytester, "@pytest.mark.xfail\n@mergeable()\ndef test_pool(): pass")
        result.assert_outcomes(xfailed=1)
        assert result.ret == pytest.ExitCode.INTERRUPTED

    def test_an_expected_failure_hides_no_missing_pool(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.passing("own.yaml")
        result = run(
            pytester,
            "@mergeable('own.yaml')\ndef test_a(): pass\n"
            "@pytest.mark.xfail\n@mergeable()\ndef test_b(): pass",
        )
        result.assert_outcomes(passed=1, xfailed=1)
        assert result.ret == pytest.ExitCode.TESTS_FAILED

    def test_the_only_gate_skipped(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        result = run(pytester, "@pytest.mark.skip(reason='x')\n@mergeable()\ndef test_pool(): pass")
        result.assert_outcomes(skipped=1)
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED

    def test_an_item_without_fixtures_cannot_be_marked(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.passing()
        pytester.makeconftest(
            """
            from pytest_mergegate import mergeable

            def pytest_collection_modifyitems(items):
                for item in items:
                    if item.name == "pool":
                        item.add_marker(mergeable())
            """
        )
        result = pytester.runpytest(ON)
        result.assert_outcomes(passed=3, failed=1)
        result.stdout.fnmatch_lines(["*mergeable only marks test functions and methods*"])


class TestMarkerErrors:
    @pytest.mark.parametrize(
        ("marker", "said"),
        [
            ("mergeable(max_mdss=3)", "*::test_pool: *'max_mdss'*did you mean 'max_mds'?"),
            ("mergeable(zzz=3)", "*::test_pool: *'zzz'; known: *max_loss*"),
            ("mergeable('a.yaml', base='b')", "*::test_pool: *not both"),
            ("pytest.mark.mergeable('a', 'b')", "*::test_pool: *takes one pool, got ('a', 'b')"),
        ],
    )
    def test_is_a_usage_error_that_names_the_test(
        self, pytester: pytest.Pytester, marker: str, said: str
    ) -> None:
        result = run(pytester, f"@{marker}\ndef test_pool(): pass")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([said])

    def test_the_marker_s_keys_are_those_of_a_gate(self) -> None:
        assert set(Budget.model_fields) == plugin._BUDGET_KEYS
        assert set(GateSpec.model_fields) - {"budget"} == plugin._POOL_KEYS

    def test_the_marker_is_listed(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest("--markers")
        result.stdout.fnmatch_lines(["@pytest.mark.mergeable(pool=None, /, [*][*]budget): *"])


class TestFixtures:
    def test_merge_report(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        body = """
@mergeable()
def test_pool(merge_report):
    assert merge_report.status == "pass"
    assert merge_report.expert_names == ("a", "b", "c")
"""
        run(pytester, body).assert_outcomes(passed=1)

    def test_merge_report_without_the_marker_gates_nothing(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.failing()
        body = "def test_pool(merge_report): assert merge_report.status == 'fail'"
        result = run(pytester, body)
        result.assert_outcomes(passed=1)
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED

    def test_models(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        body = """
from safetensors.torch import save_file

@mergeable()
def test_pool(merged_model, expert_model):
    for name, model in {"merged": merged_model, "a": expert_model("a")}.items():
        weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        save_file(weights, f"{name}.safetensors")
"""
        run(pytester, body).assert_outcomes(passed=1)
        base = AutoModelForCausalLM.from_pretrained(gates.shared.parent / "base").state_dict()
        vectors = {name: _task_vector(gates.shared.parent / "adapters" / name) for name in "abc"}
        merged = load_file(pytester.path / "merged.safetensors")
        expert = load_file(pytester.path / "a.safetensors")
        assert len(vectors["a"]) == 14
        assert merged.keys() == expert.keys()
        for name, weight in merged.items():
            own = vectors["a"].get(name, torch.zeros(()))
            mean = sum(vector.get(name, torch.zeros(())) for vector in vectors.values()) / 3
            torch.testing.assert_close(weight, base[name] + mean)
            torch.testing.assert_close(expert[name], base[name] + own)

    def test_a_fresh_model_for_every_test(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        body = """
@pytest.mark.parametrize("time", [1, 2])
@mergeable()
def test_pool(merged_model, time):
    weight = next(merged_model.parameters()).data
    assert weight.abs().sum() > 0
    weight.zero_()
"""
        run(pytester, body).assert_outcomes(passed=2)

    def test_an_expert_that_is_not_there(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        result = run(pytester, "@mergeable()\ndef test_pool(expert_model): expert_model('d')")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["the pool has no expert 'd' (fix: its experts: a, b, c)"])

    def test_a_model_that_cannot_be_merged(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.write(budget={CHEAP: 1.0}, merge={"methods": ["blend"]})
        result = run(pytester, "@mergeable()\ndef test_pool(merged_model): pass")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*mergegate.yaml:*'blend'*"])
        result.stdout.no_fnmatch_line("*Traceback*")
        result.stdout.no_fnmatch_line("*pytest_mergegate/*")


def _task_vector(adapter: Path) -> dict[str, torch.Tensor]:
    """(α/r)·B·A of every layer that a PEFT adapter changes, by the parameter's name."""
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    factors = load_file(adapter / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    return {
        name.removeprefix("base_model.model.").replace("lora_A.", ""): scale
        * (factors[name.replace("lora_A", "lora_B")] @ factor)
        for name, factor in factors.items()
        if "lora_A" in name
    }
