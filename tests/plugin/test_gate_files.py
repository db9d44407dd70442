"""Gate files as pytest items: what is collected, how it ends, and what people are told."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from plugin.gates import CHEAP
from pytest_mergegate import assess
from pytest_mergegate.report.gating import run_gate
from pytest_mergegate.testing import session

if TYPE_CHECKING:
    from plugin.gates import Gates
    from pytest_mergegate.report.types import Report

ON = "--mergegate"
NODES = [f"mergegate.yaml::{name}" for name in ("a", "b", "c", "pool")]
NO_TRACEBACK = ["Traceback", "site-packages", "pytest_mergegate/", "INTERNALERROR"]


def run(pytester: pytest.Pytester, *args: object) -> pytest.RunResult:
    """pytest with the gates on; whatever happens, users never see our code."""
    result = pytester.runpytest(ON, *args)
    for text in NO_TRACEBACK:
        assert text not in result.stdout.str() + result.stderr.str()
    return result


def report_of(pytester: pytest.Pytester) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((pytester.path / "report.json").read_text("utf-8"))
    return data


class TestCollection:
    def test_one_item_per_expert_and_one_for_the_pool(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.passing()
        result = run(pytester, "--collect-only", "-q")
        assert result.outlines[:4] == NODES

    def test_named_like_a_gate_file(self, pytester: pytest.Pytester, gates: Gates) -> None:
        for name in ("mergegate.yaml", "sub/nightly.mergegate.yaml", "config.yaml"):
            gates.passing(name)
        result = run(pytester, "--collect-only", "-q")
        assert {line.partition("::")[0] for line in result.outlines[:8]} == {
            "mergegate.yaml",
            "sub/nightly.mergegate.yaml",
        }

    def test_any_name_on_the_command_line(self, pytester: pytest.Pytester, gates: Gates) -> None:
        run(pytester, gates.passing("config.yml")).assert_outcomes(passed=4)

    def test_reports_point_at_the_expert_s_line(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        lines = gates.passing().read_text("utf-8").splitlines()
        items, _ = pytester.inline_genitems(ON)
        located = {item.name: item.location for item in items}
        for name in "abc":
            path, line, title = located[name]
            assert (path, line) == ("mergegate.yaml", lines.index(f"  {name}:"))
            assert title == f"mergegate: {name}"
        assert located["pool"][:2] == ("mergegate.yaml", 0)

    def test_a_glob_of_experts(self, pytester: pytest.Pytester, gates: Gates) -> None:
        shutil.copytree(gates.shared.parent / "adapters", pytester.path / "adapters")
        gates.write(experts="adapters/*", budget={CHEAP: 1.0})
        run(pytester).assert_outcomes(passed=4)

    @pytest.mark.parametrize("name", ["a b", "ü-[1]", "a.b/c"])
    def test_unusual_names_can_be_selected(
        self, pytester: pytest.Pytester, gates: Gates, name: str
    ) -> None:
        experts = {name: gates.expert("a"), "b": gates.expert("b")}
        gates.write(experts=experts, budget={CHEAP: 1.0})
        result = run(pytester, f"mergegate.yaml::{name}", "-v")
        result.assert_outcomes(passed=1)
        assert f"mergegate.yaml::{name} PASSED" in result.stdout.str()

    @pytest.mark.parametrize("name", ["pool", "a::b", "", "a\nb"])
    def test_names_that_no_item_can_have(
        self, pytester: pytest.Pytester, gates: Gates, name: str
    ) -> None:
        experts = {name: gates.expert("a"), "b": gates.expert("b")}
        gates.write(experts=experts, budget={CHEAP: 1.0})
        result = run(pytester)
        assert result.ret == pytest.ExitCode.INTERRUPTED
        result.stdout.fnmatch_lines(["mergegate.yaml:[0-9]*: experts.*"])


class TestExitCodes:
    def test_0_where_every_gate_passes(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        result = run(pytester)
        result.assert_outcomes(passed=4)
        assert result.ret == pytest.ExitCode.OK

    def test_1_where_a_gate_fails(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing("a.mergegate.yaml")
        gates.failing("b.mergegate.yaml")
        result = run(pytester)
        result.assert_outcomes(passed=4, failed=4)
        assert result.ret == pytest.ExitCode.TESTS_FAILED

    def test_1_where_a_gate_is_inconclusive(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.undecided()
        result = run(pytester)
        result.assert_outcomes(failed=3)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["a: MDS undecided: *at least three experts"])

    def test_2_where_a_gate_file_cannot_be_read(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.passing("a.mergegate.yaml")
        gates.malformed("b.mergegate.yaml")
        result = run(pytester)
        assert result.ret == pytest.ExitCode.INTERRUPTED
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(
            [
                "b.mergegate.yaml:2: unknown key 'budgt' (fix: did you mean 'budget'?)",
                "b.mergegate.yaml:5: budget.max_mds: *not 'many'",
            ],
            consecutive=True,
        )

    def test_2_where_the_other_gates_still_run(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.passing("a.mergegate.yaml")
        gates.malformed("b.mergegate.yaml")
        result = run(pytester, "--continue-on-collection-errors")
        result.assert_outcomes(passed=4, errors=1)
        assert result.ret == pytest.ExitCode.INTERRUPTED

    def test_2_where_an_expert_cannot_be_read(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.unreadable()
        result = run(pytester)
        result.assert_outcomes(errors=4)
        assert result.ret == pytest.ExitCode.INTERRUPTED
        result.stdout.fnmatch_lines(["MG001 b: mergegate.yaml:*: there is no directory*(fix: *"])

    @pytest.mark.parametrize(
        ("option", "said"),
        [
            ("--mergegate-stage=deep", "*one of preflight, conflict, hidden, merge, eval*'deep'"),
            ("--mergegate-max-mds=nan", "*--mergegate-max-mds must be a number from 0*nan"),
            ("--mergegate-max-loss=-1", "*--mergegate-max-loss must be a number from 0*-1.0"),
            ("--mergegate-max-disagreement=2", "*must be a number from 0 to 1*2.0"),
            ("--mergegate-max-mds=three", "*invalid float value: 'three'"),
            ("--mergegate-report=pdf:x.pdf", "*unknown format 'pdf'; available: json, *"),
            ("--mergegate-report=json:.", "*is a folder; name a file in it"),
            ("--mergegate-device=tpu", "*must be auto, cpu or cuda*'tpu'"),
            ("--mergegate-executor=slurm", "*must be local, ray or ray:ADDRESS, not 'slurm'"),
            ("--mergegate-executor=ray:", "*must be local, ray or ray:ADDRESS, not 'ray:'"),
        ],
    )
    def test_4_for_bad_options(
        self, pytester: pytest.Pytester, gates: Gates, option: str, said: str
    ) -> None:
        gates.passing()
        result = run(pytester, option)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([said])

    @pytest.mark.parametrize(
        ("ini", "said"),
        [
            ("mergegate_on_inconclusive = ignore", "*must be fail or warn, not 'ignore'"),
            ("mergegate_max_mds = three", "*ini mergegate_max_mds must be a number*'three'"),
            ("verbosity_mergegate = loud", "*verbosity_mergegate must be a whole number*"),
            ("mergegate_stage = deep", "*must be one of*'deep'"),
            ("mergegate_executor = rays", "*must be local, ray or ray:ADDRESS, not 'rays'"),
        ],
    )
    def test_4_for_bad_configuration(
        self, pytester: pytest.Pytester, gates: Gates, ini: str, said: str
    ) -> None:
        gates.passing()
        pytester.makeini(f"[pytest]\n{ini}")
        result = run(pytester)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([said])


class TestNothingGated:
    def test_nothing_collected(self, pytester: pytest.Pytester) -> None:
        assert run(pytester).ret == pytest.ExitCode.NO_TESTS_COLLECTED

    def test_only_plain_tests(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile("def test_plain(): pass")
        result = run(pytester)
        result.assert_outcomes(passed=1)
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
        result.stdout.fnmatch_lines(["mergegate: asked to gate, but no gate ran"])

    @pytest.mark.parametrize("chosen", ["-k=plain", "--deselect=mergegate.yaml"])
    def test_every_gate_deselected(
        self, pytester: pytest.Pytester, gates: Gates, chosen: str
    ) -> None:
        gates.passing()
        pytester.makepyfile("def test_plain(): pass")
        result = run(pytester, chosen)
        result.assert_outcomes(passed=1, deselected=4)
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED

    def test_every_gate_skipped(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        pytester.makeconftest(
            """
            import pytest

            def pytest_collection_modifyitems(items):
                for item in items:
                    item.add_marker(pytest.mark.skip(reason="not today"))
            """
        )
        result = run(pytester)
        result.assert_outcomes(skipped=4)
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED

    def test_one_skipped_gate_beside_one_that_ran(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.passing()
        pytester.makepyfile(
            """
            import pytest
            from pytest_mergegate import mergeable

            @pytest.mark.skip(reason="not today")
            @mergeable("mergegate.yaml")
            def test_skipped(): pass
            """
        )
        result = run(pytester)
        result.assert_outcomes(passed=4, skipped=1)
        assert result.ret == pytest.ExitCode.OK

    def test_a_gate_without_a_verdict(
        self, pytester: pytest.Pytester, gates: Gates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def say_nothing(*args: Any) -> Report:
            return run_gate(*args).model_copy(update={"verdicts": ()})

        monkeypatch.setattr(session, "run_gate", say_nothing)
        gates.passing()
        result = run(pytester)
        result.assert_outcomes(failed=4)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["no budget was judged, and a gate without a verdict *"])

    def test_a_gate_that_another_plugin_swallows(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.passing()
        pytester.makeconftest(
            """
            import pytest

            @pytest.hookimpl(tryfirst=True)
            def pytest_runtest_protocol(item):
                return True if item.name in ("c", "pool") else None
            """
        )
        result = run(pytester)
        result.assert_outcomes(passed=2)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(
            ["mergegate: collected, but never reported: mergegate.yaml::c and 1 more"]
        )

    @pytest.mark.parametrize("content", ["", "- a\n", "merge_method: ties\nbase_model: x\n"])
    def test_no_gate_in_the_file(self, pytester: pytest.Pytester, content: str) -> None:
        (pytester.path / "mergegate.yaml").write_text(content)
        result = run(pytester)
        assert result.ret == pytest.ExitCode.INTERRUPTED
        result.stdout.fnmatch_lines(["mergegate.yaml:1: *(fix: *)"])

    def test_a_yaml_file_of_another_kind(self, pytester: pytest.Pytester) -> None:
        (pytester.path / "compose.yaml").write_text("services: {}\n")
        result = run(pytester, "compose.yaml")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: *compose.yaml*"])


class TestBudgets:
    def test_the_default_is_a_disagreement_of_30_percent(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.write()
        run(pytester, "--mergegate-report=json:report.json")
        verdicts = report_of(pytester)["verdicts"]
        assert {(v["budget"], v["limit"]) for v in verdicts} == {("max_disagreement", 0.3)}

    @pytest.mark.parametrize(
        ("written", "ini", "option", "passes"),
        [
            (1e9, None, None, True),
            (1e9, None, 0, False),
            (1e9, 0, None, False),
            (1e9, 0, 1e9, False),
            (1e9, 1e9, 0, False),
            (0, 1e9, 1e9, False),
            (1e9, 1e9, 1e9, True),
            (None, None, 0, False),
        ],
    )
    @pytest.mark.usefixtures("any_base")
    def test_caps_tighten_and_never_loosen(
        self,
        pytester: pytest.Pytester,
        gates: Gates,
        written: float | None,
        ini: float | None,
        option: float | None,
        passes: bool,
    ) -> None:
        loose = {"max_disagreement": 1.0}
        gates.write(budget=loose if written is None else loose | {"max_mds": float(written)})
        if ini is not None:
            pytester.makeini(f"[pytest]\nmergegate_max_mds = {ini}")
        result = run(pytester, *([] if option is None else [f"--mergegate-max-mds={option}"]))
        assert result.ret == (pytest.ExitCode.OK if passes else pytest.ExitCode.TESTS_FAILED)

    def test_a_budget_deeper_than_the_stage_allows_does_not_pass(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.write(budget={"max_mds": 1e9, CHEAP: 1.0})
        result = run(pytester, "--mergegate-stage=conflict")
        result.assert_outcomes(failed=4)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(
            ["a: MDS undecided: needs stage hidden*no deeper than conflict"]
        )

    def test_inconclusive_may_only_warn(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.undecided()
        pytester.makeini("[pytest]\nmergegate_on_inconclusive = warn")
        result = run(pytester)
        result.assert_outcomes(passed=3, warnings=3)
        assert result.ret == pytest.ExitCode.OK
        result.stdout.fnmatch_lines(["*undecided merge gate: a: MDS undecided*", "INCONCLUSIVE*"])

    def test_a_failure_is_no_warning(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.write(names="ab", budget={"max_mds": 1e9, CHEAP: 0.0})
        pytester.makeini("[pytest]\nmergegate_on_inconclusive = warn")
        result = run(pytester)
        result.assert_outcomes(failed=3)
        assert result.ret == pytest.ExitCode.TESTS_FAILED


class TestWhatPeopleAreTold:
    @pytest.fixture
    def failed(self, pytester: pytest.Pytester, gates: Gates) -> pytest.RunResult:
        """A gate that fails for every expert, on hidden states."""
        gates.write(budget={"max_mds": 0.5})
        return run(pytester, "--mergegate-report=json:report.json")

    def test_the_value_its_interval_and_the_limit(
        self, pytester: pytest.Pytester, failed: pytest.RunResult
    ) -> None:
        for expert in report_of(pytester)["experts"]:
            low, high = (f"{end:.3g}" if end is not None else "∞" for end in expert["mds_interval"])
            value = f"MDS {expert['mds']:.3g} [{low}, {high}] over 0.5"
            assert f"{expert['name']}: {value}" in failed.stdout.str()

    def test_the_partners_nearest_and_farthest(
        self, pytester: pytest.Pytester, failed: pytest.RunResult
    ) -> None:
        apart = {(p["a"], p["b"]): p["distance"] for p in report_of(pytester)["pairs"]}
        near, far = ("b", "c") if apart["a", "b"] <= apart["a", "c"] else ("c", "b")
        failed.stdout.fnmatch_lines(
            ["*_ mergegate: a _*", f"  nearest partner {near}, farthest {far} *", "*mergegate: b *"]
        )

    def test_the_pool_names_who_is_over(self, failed: pytest.RunResult) -> None:
        failed.stdout.fnmatch_lines(
            ["*_ mergegate: pool _*", "3 of 3 experts not within budget: a, b, c"],
            consecutive=True,
        )

    def test_the_table(self, pytester: pytest.Pytester, failed: pytest.RunResult) -> None:
        first = report_of(pytester)["experts"][0]
        failed.stdout.fnmatch_lines(
            [
                "*= merge gates =*",
                "FAIL *mergegate.yaml: 3 of 3 experts over budget: a, b, c (* s)",
                "*(MDS)",
                "expert  verdict *≤ 0.5",
                f"a  *fail *{first['mds']:.2f}",
            ]
        )

    def test_one_line_where_all_is_well(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        output = run(pytester).stdout
        output.fnmatch_lines(["PASS *mergegate.yaml: 3 experts within budget; closest: *"])
        output.no_fnmatch_line("expert *verdict*")

    @pytest.mark.parametrize(
        ("arguments", "ini", "table", "line"),
        [
            (["-v"], "", True, True),
            (["-q"], "", False, False),
            ([], "verbosity_mergegate = 1", True, True),
            (["-v"], "verbosity_mergegate = 0", False, True),
        ],
    )
    def test_verbosity(
        self,
        pytester: pytest.Pytester,
        gates: Gates,
        arguments: list[str],
        ini: str,
        table: bool,
        line: bool,
    ) -> None:
        gates.passing()
        pytester.makeini(f"[pytest]\n{ini}")
        lines = run(pytester, *arguments).outlines
        assert any(text.startswith("expert") for text in lines) is table
        assert any(text.startswith("PASS ") for text in lines) is line

    def test_quiet_still_says_what_failed(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing()
        output = run(pytester, "-q").stdout
        output.fnmatch_lines(["FAIL *mergegate.yaml: 3 of 3 experts over budget*"])
        output.no_fnmatch_line("expert *verdict*")


class TestOtherOptions:
    def test_one_item_by_its_node_id(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        result = run(pytester, "mergegate.yaml::b")
        result.assert_outcomes(passed=1)
        assert result.ret == pytest.ExitCode.OK

    def test_an_item_that_is_not_there(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        assert run(pytester, "mergegate.yaml::d").ret == pytest.ExitCode.USAGE_ERROR

    def test_exitfirst(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.failing("a.mergegate.yaml")
        gates.passing("b.mergegate.yaml")
        result = run(pytester, "-x")
        result.assert_outcomes(failed=1)
        assert result.ret == pytest.ExitCode.TESTS_FAILED

    def test_last_failed_and_failed_first(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing("a.mergegate.yaml")
        gates.failing("b.mergegate.yaml")
        run(pytester)
        run(pytester, "--lf").assert_outcomes(failed=4)
        lines = run(pytester, "--ff", "-v").outlines
        order = [line.split("::")[0] for line in lines if line.endswith("%]")]
        assert order == ["b.mergegate.yaml"] * 4 + ["a.mergegate.yaml"] * 4
        gates.passing("b.mergegate.yaml")
        run(pytester, "--lf").assert_outcomes(passed=4)
        assert run(pytester).ret == pytest.ExitCode.OK

    def test_last_failed_with_nothing_to_do(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing()
        run(pytester)
        result = run(pytester, "--lf", "--lfnf=none")
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED

    def test_ctrl_c(self, pytester: pytest.Pytester, gates: Gates) -> None:
        gates.passing("a.mergegate.yaml")
        pytester.makepyfile(test_m="def test_stop(): raise KeyboardInterrupt")
        gates.passing("z.mergegate.yaml")
        report = "--mergegate-report=json:report.json"
        result = pytester.runpytest_inprocess(ON, report, no_reraise_ctrlc=True)
        result.assert_outcomes(passed=4)
        assert result.ret == pytest.ExitCode.INTERRUPTED
        # z was never gated, so the report must not be one that passes
        assert report_of(pytester)["status"] == "inconclusive"
        assert [r["status"] for r in report_of(pytester)["reports"]] == ["pass"]

    def test_pytest_exit_with_0_is_no_way_round(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        pytester.makepyfile(
            test_a="import pytest\ndef test_stop(): pytest.exit('enough', returncode=0)"
        )
        gates.passing("z.mergegate.yaml")
        assert run(pytester).ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_deselecting_what_fails_is_no_pass(pytester: pytest.Pytester, gates: Gates) -> None:
    """Only one pair conflicts: the third expert passes, and is all that is selected."""
    report = assess(gates.shared, stage="conflict", max_conflicting_magnitude_ratio=1.0)
    worst = {
        name: max(
            pair.conflicting_magnitude_ratio or 0
            for pair in report.pairs
            if name in (pair.a, pair.b)
        )
        for name in report.expert_names
    }
    mildest = min(worst, key=lambda name: worst[name])
    limit = (worst[mildest] + max(worst.values())) / 2
    gates.write(budget={CHEAP: limit})
    result = pytester.runpytest("--mergegate", f"mergegate.yaml::{mildest}")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*not passed, though the items selected of it did*"])
