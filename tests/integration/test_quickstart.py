"""The pool that the README shows: really trained, one gate passes and one fails, and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.gate.options import Options
from pytest_mergegate.report.formats import markdown
from pytest_mergegate.report.formats.failures import failure_text
from pytest_mergegate.report.formats.terminal import Look, summary
from pytest_mergegate.report.gating import run_gate
from pytest_mergegate.report.types import Collected

if TYPE_CHECKING:
    from pytest_mergegate.report.types import Report

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
pytestmark = pytest.mark.slow


def assessed(name: str, **options: object) -> Report:
    """Run one of the two gates."""
    return run_gate(load_gate(QUICKSTART / f"{name}.mergegate.yaml"), Options(**options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def compatible() -> Report:
    return assessed("compatible")


@pytest.fixture(scope="module")
def collapsing() -> Report:
    return assessed("collapsing")


def test_compatible_pool_passes(compatible: Report) -> None:
    report = compatible
    assert report.status == "pass"
    assert {v.status for v in report.verdicts} == {"pass"}
    assert len(report.experts) >= 3


def test_collapsing_pool_fails_with_its_cause_and_cure(collapsing: Report) -> None:
    report = collapsing
    assert report.status == "fail"
    assert {v.expert for v in report.verdicts if v.status == "fail"} == {"reverse_shout"}
    text = failure_text(collapsing, "reverse_shout")
    assert "interference with reverse_upper" in text
    assert "farthest reverse_upper" in text
    assert report.plan is not None
    assert set(report.plan.drop) <= {"reverse_shout", "reverse_upper"}
    assert report.plan.drop


def test_the_case_behind_the_score_is_seen_everywhere(collapsing: Report) -> None:
    """What reverse_shout should have said, and what it says now."""
    judged = next(m for m in collapsing.merges if m.method == "linear")
    case = next(e for e in judged.experts if e.name == "reverse_shout").changed[0]
    assert case.expert == case.target
    assert case.expert == case.input.removeprefix("rev:").removesuffix("=")[::-1] + "!"
    assert case.merged != case.expert
    assert (case.score_expert, case.score_merged) == (1.0, 0.0)
    terminal = summary([collapsing], Look(width=80, reasons=True))
    test = failure_text(collapsing, "reverse_shout")
    comment = markdown.render(Collected(reports=(collapsing,)), limit=markdown.COMMENT_LIMIT)
    for text in (terminal, test, comment):
        lines = [" ".join(line.split()) for line in text.splitlines()]
        place = lines.index(f"1 input {case.input}")
        assert lines[place : place + 4] == [
            f"1 input {case.input}",
            f"target {case.target}",
            f"expert 1.00 {case.expert}",
            f"merge 0.00 {case.merged}",
        ]


def test_mergekit_s_file_is_the_same_gate(compatible: Report) -> None:
    """As the gate's second method: the same experts, weights and inputs."""
    report = run_gate(load_gate(QUICKSTART / "merge.yml"), Options())
    assert report.status == "pass"
    (merge,) = report.merges
    known = next(m for m in compatible.merges if m.method.startswith("task_arithmetic"))
    assert merge.digest == known.digest
    for own, other in zip(merge.experts, known.experts, strict=True):
        assert own.disagreement == other.disagreement
        assert own.score_merged == other.score_merged


def test_the_cure_cures(collapsing: Report) -> None:
    """The pool without the expert that the gate says to leave out passes, really merged."""
    assert collapsing.plan is not None
    gate = load_gate(QUICKSTART / "collapsing.mergegate.yaml")
    left = {n: e for n, e in gate.spec.experts.items() if n not in collapsing.plan.drop}
    smaller = gate.spec.model_copy(update={"experts": left})
    report = run_gate(type(gate)(spec=smaller, root=gate.root), Options())
    assert report.status == "pass"


def test_experts_are_fine_alone_and_a_task_collapses(
    compatible: Report, collapsing: Report
) -> None:
    for report in (compatible, collapsing):
        for expert in report.merges[0].experts:
            assert (expert.score_expert or 0) >= 0.93
            assert (expert.score_base or 0) <= 0.05
    linear = next(m for m in collapsing.merges if m.method == "linear")
    assert (linear.worst_loss or 0) < -50


def test_hidden_stage_predicts_what_the_merge_does() -> None:
    report = assessed("collapsing", stage="hidden")
    assert report.status == "fail"
    assert report.merges == ()
    disagreements = [v for v in report.verdicts if v.budget == "max_disagreement"]
    assert {v.basis for v in disagreements} == {"predicted"}
    assert {v.expert for v in disagreements if v.status == "fail"} == {"reverse_shout"}
    assert {v.status for v in report.verdicts if v.budget == "max_loss"} == {"inconclusive"}
    assert report.forecasts
    assert all(expert.mds is not None for expert in report.experts)


def test_every_expert_has_its_own_unseen_examples() -> None:
    experts = sorted(path.name for path in (QUICKSTART / "adapters").iterdir())
    assert len(experts) >= 8
    for name in experts:
        lines = (QUICKSTART / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        inputs = [json.loads(line)["input"] for line in lines]
        assert len(set(inputs)) == len(inputs) == 100


def test_files_stay_small() -> None:
    files = [p for p in QUICKSTART.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sum(path.stat().st_size for path in files) < 6_000_000
