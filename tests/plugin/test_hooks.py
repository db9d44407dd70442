"""The hooks that others implement: scores for the gates, and what came of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from plugin.gates import Gates

pytestmark = pytest.mark.slow

SCORING = """
import pytest_mergegate

def pytest_mergegate_evaluate(metric, model, tokenizer, examples):
    if metric != "acme:judge":
        return None
    assert not model.training and callable(tokenizer)
    assert all(set(example) >= {{"input", "target"}} for example in examples)
    return {scores}
"""
TELLING = """
import json
from pathlib import Path

def pytest_mergegate_report(report, config):
    found = {"gate": report.gate, "status": report.status, "worker": hasattr(config, "workerinput")}
    with Path("told.jsonl").open("a") as file:
        file.write(json.dumps(found) + chr(10))
"""


@pytest.fixture
def judged(pytester: pytest.Pytester, gates: Gates) -> Path:
    """A gate on losses by a metric that only the hook knows; on few examples, so undecided."""
    pytester.makeini("[pytest]\nmergegate_on_inconclusive = warn")
    experts = {name: gates.expert(name, metric="acme:judge") for name in "abc"}
    return gates.write(budget={"max_loss": 1.0}, experts=experts)


def losses(pytester: pytest.Pytester, *options: str) -> list[float]:
    result = pytester.runpytest("--mergegate", "--mergegate-report=json:r.json", *options)
    assert result.ret == pytest.ExitCode.OK, result.outlines
    report = json.loads((pytester.path / "r.json").read_text())
    assert report["status"] == "inconclusive"
    return [row["loss"] for row in report["merges"][0]["experts"]]


@pytest.mark.usefixtures("judged")
class TestEvaluate:
    @pytest.mark.parametrize("workers", [(), ("-n2",)])
    def test_its_scores_count(self, pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
        pytester.makeconftest(SCORING.format(scores="[0.5] * len(examples)"))
        assert losses(pytester, *workers) == [0.0] * 3

    def test_the_first_that_knows_the_metric(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(SCORING.format(scores="None"))
        pytester.makepyfile(
            other="def pytest_mergegate_evaluate(metric, examples): return [1] * len(examples)"
        )
        pytester.syspathinsert()
        assert losses(pytester, "-pother") == [0.0] * 3

    def test_what_it_leaves_is_a_function(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(SCORING.format(scores="None"))
        pytester.makepyfile(acme="def judge(outputs, targets): return [1.0] * len(outputs)")
        assert losses(pytester) == [0.0] * 3

    def test_one_metric_for_every_model(self, pytester: pytest.Pytester) -> None:
        """Between two metrics there is no loss, and the function's would be none at all."""
        pytester.makeconftest(
            "asked = []\n"
            "def pytest_mergegate_evaluate(metric, examples):\n"
            "    asked.append(metric)\n"
            "    return [0.5] * len(examples) if len(asked) <= 6 else None\n"
        )
        pytester.makepyfile(acme="def judge(outputs, targets): return [1.0] * len(outputs)")
        result = pytester.runpytest("--mergegate")
        assert result.ret == pytest.ExitCode.INTERRUPTED
        result.stdout.fnmatch_lines(["*under one model, and returned None under another (merge:*"])

    def test_what_nobody_knows_is_an_error(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(SCORING.format(scores="None"))
        result = pytester.runpytest("--mergegate")
        assert result.ret == pytest.ExitCode.INTERRUPTED
        result.stdout.fnmatch_lines(["*metric acme:judge cannot be imported*"])

    @pytest.mark.parametrize(
        ("scores", "said"),
        [
            ("[0.5] * (len(examples) - 1) + [float('nan')]", "scored example 6 as nan"),
            ("[2.0] * len(examples)", "scored example 1 as 2.0"),
            ("[0.5] * 3", "returned 3 scores for 6 examples"),
            ("1 / 0", "raised ZeroDivisionError*(example 1: input*"),
        ],
    )
    def test_what_is_no_score_is_an_error(
        self, pytester: pytest.Pytester, scores: str, said: str
    ) -> None:
        pytester.makeconftest(SCORING.format(scores=scores))
        result = pytester.runpytest("--mergegate")
        assert result.ret == pytest.ExitCode.INTERRUPTED
        result.stdout.fnmatch_lines([f"*metric acme:judge {said}*"])


class TestReport:
    def told(self, pytester: pytest.Pytester) -> list[tuple[str, str, bool]]:
        lines = (pytester.path / "told.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return [(f["gate"].rpartition("/")[2], f["status"], f["worker"]) for f in found]

    @pytest.mark.parametrize("workers", [(), ("-n2",)])
    def test_told_once_of_every_gate(
        self, pytester: pytest.Pytester, gates: Gates, workers: tuple[str, ...]
    ) -> None:
        pytester.makeconftest(TELLING)
        gates.passing("a.mergegate.yaml")
        gates.failing("b.mergegate.yaml")
        gates.unreadable("c.mergegate.yaml")
        assert pytester.runpytest("--mergegate", *workers).ret == pytest.ExitCode.INTERRUPTED
        assert self.told(pytester) == [
            ("a.mergegate.yaml", "pass", False),
            ("b.mergegate.yaml", "fail", False),
            ("c.mergegate.yaml", "error", False),
        ]

    def test_not_while_gates_are_off_or_only_listed(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        pytester.makeconftest(TELLING)
        gates.passing()
        pytester.runpytest()
        pytester.runpytest("--mergegate", "--collect-only")
        assert not (pytester.path / "told.jsonl").exists()

    @pytest.mark.parametrize("left", ["SystemExit(0)", "__import__('pytest').skip.Exception('x')"])
    def test_one_that_wants_to_leave_changes_no_exit_code(
        self, pytester: pytest.Pytester, gates: Gates, left: str
    ) -> None:
        pytester.makeconftest(f"def pytest_mergegate_report(report): raise {left}")
        gates.failing()
        result = pytester.runpytest_subprocess("--mergegate", "--mergegate-report=json:r.json")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert json.loads((pytester.path / "r.json").read_text())["status"] == "fail"

    def test_one_that_raises_fails_the_run_and_loses_nothing(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        pytester.makeconftest("def pytest_mergegate_report(report): raise OSError('no network')")
        gates.passing()
        result = pytester.runpytest("--mergegate", "--mergegate-report=json:r.json")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(
            ["mergegate: pytest_mergegate_report raised OSError: no network*"]
        )
        assert (pytester.path / "r.json").exists()


def test_a_conftest_that_works_without_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import pytest\n@pytest.hookimpl(optionalhook=True)\n"
        "def pytest_mergegate_report(report): raise AssertionError\n"
    )
    pytester.makepyfile("def test_one(): pass")
    assert pytester.runpytest("-pno:mergegate").ret == pytest.ExitCode.OK
