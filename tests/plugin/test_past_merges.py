"""Losses without labels, and limits, that come of recorded merges."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from pools import read_gate, read_jsonl, write_gate, write_jsonl
from unit.history.registry.making import made

from plugin.test_cli import mergegate
from pytest_mergegate import assess
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.history.registry.lines import RegistryLine, line_id
from pytest_mergegate.pool.pool import read_pool
from pytest_mergegate.stages import base_answers
from pytest_mergegate.stages.base_answers import BaseAnswers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from plugin.gates import Gates
    from pytest_mergegate.report.types import PredictionRecord, Report

pytestmark = pytest.mark.slow

NAME = "mergegate.registry.jsonl"
POOLS = 24
"""Enough for a miss rate of a tenth: each has experts of its own, that a fit has effects for."""


_OF: dict[str, Any] = {"base": "base", "reading": None, "shared": 0}
"""What recorded merges are of, where a test does not say otherwise: the pool's own base."""


@pytest.fixture(autouse=True)
def _of_the_pools_base(gates: Gates, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, _ = read_pool(load_gate(gates.shared))
    assert pool is not None
    monkeypatch.setitem(_OF, "base", pool.base.fingerprint)
    monkeypatch.setitem(_OF, "reading", pool.spec.reading_of("a"))


@pytest.fixture(autouse=True)
def _a_base_that_knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random base may answer five inputs like an expert, and would then pass by itself."""
    nothing = dict.fromkeys("abc", BaseAnswers(inputs=5, disagreement=1.0))
    monkeypatch.setattr(base_answers, "base_answers", lambda _: nothing)


def write_registry(
    path: Path,
    *,
    merges: int,
    loss: Callable[[float], float],
    seed: int,
    inputs: int = 5,
    most: int | None = None,
    pools: bool = False,
    **of: Any,
) -> Path:
    """Recorded merges whose loss is a function of the disagreement, which is never 0, and nearly
    exactly so."""
    rng = random.Random(seed)
    known = {**_OF, "compared": max(inputs, most or 0), **of}
    lines = []
    for k in range(merges):
        rates = {name: min(rng.randrange(1, 80), 64) / 64 for name in "xyz"}
        rates["xyz"[k % 3]] = 1.0  # as risky as can be, so that enough speak of whatever comes
        scores = {
            n: {"disagreement": r, "surrogate": r, "states": r, "mds": 1 + 4 * r}
            for n, r in rates.items()
        }
        losses = {n: loss(r) + rng.uniform(-0.01, 0.01) for n, r in rates.items()}
        settings = {"seed": k, "probes": {"drawn_per_task": 1}}
        line = made("xyz", scores=scores, losses=losses, settings=settings, **known)
        lines.append(_of_another_pool(line, k) if pools else line)
    path.write_text("".join(line.to_json() + "\n" for line in lines), encoding="utf-8")
    return path


def _of_another_pool(line: RegistryLine, k: int) -> RegistryLine:
    """The same of experts that no other line has."""
    data = json.loads(line.to_json())
    for expert in data["experts"]:
        expert["fingerprint"] += str(k)
    data["id"] = line_id(data)
    return RegistryLine.model_validate_json(json.dumps(data))


@pytest.fixture
def unlabelled(gates: Gates) -> Callable[..., Path]:
    """A gate whose examples have no targets."""

    def write(limit: float, *, inputs: int = 5, **gate: Any) -> Path:
        experts = {}
        for name in "abc":
            rows = read_jsonl(gates.shared.parent / "data" / f"{name}.jsonl")
            path = write_jsonl(
                gates.folder / f"{name}.jsonl", [{"input": r["input"]} for r in rows]
            )
            experts[name] = gates.expert(name, examples=str(path))
        gate = {"certificate": {"per_task": inputs}, **gate}
        return gates.write(budget={"max_loss": limit}, experts=experts, **gate)

    return write


def of(report: Report, source: str) -> list[PredictionRecord]:
    return [p for p in report.predictions if p.source == source]


class TestLossWithoutLabels:
    def test_what_the_certificate_does_not_decide_the_registry_may(
        self, unlabelled: Callable[..., Path], tmp_path: Path, seed: int
    ) -> None:
        gate = unlabelled(20.0)
        harmless = write_registry(tmp_path / "a", merges=60, loss=lambda _: -1.0, seed=seed)
        report = assess(gate, registry=harmless)
        assert report.status == "pass"
        assert {v.basis for v in report.verdicts} == {"predicted"}
        assert all("by 60 recorded merges" in v.message for v in report.verdicts)
        assert all(0 < v.value < 2 for v in report.verdicts if v.value is not None)
        ruinous = write_registry(tmp_path / "b", merges=60, loss=lambda _: -90.0, seed=seed)
        assert assess(gate, registry=ruinous).status == "fail"

    @pytest.mark.parametrize(
        "of",
        [
            {"base": "another"},
            {"metric": "rouge_l"},
            {"reading": 'none stop=["."] max_answer_tokens=64'},
            pytest.param({"shared": 64}, id="scored on what was compared"),
            pytest.param({"shared": None}, id="a line that does not say"),
        ],
    )
    @pytest.mark.parametrize("loss", [-1.0, -90.0])
    def test_merges_that_are_no_evidence_decide_nothing(
        self,
        unlabelled: Callable[..., Path],
        tmp_path: Path,
        seed: int,
        of: dict[str, Any],
        loss: float,
    ) -> None:
        past = write_registry(tmp_path / NAME, merges=60, loss=lambda _: loss, seed=seed, **of)
        report = assess(unlabelled(20.0), registry=past)
        assert {v.status for v in report.verdicts} == {"inconclusive"}
        assert all("of another base, metric or reading" in v.message for v in report.verdicts)

    @pytest.mark.parametrize(
        ("methods", "merges", "status"), [(1, 9, "pass"), (2, 18, "inconclusive"), (2, 19, "pass")]
    )
    def test_methods_that_may_be_chosen_share_the_chance_to_be_wrong(
        self,
        unlabelled: Callable[..., Path],
        tmp_path: Path,
        seed: int,
        methods: int,
        merges: int,
        status: str,
    ) -> None:
        listed = ["linear", {"method": "task_arithmetic", "weight": 1 / 3}][:methods]
        gate = unlabelled(20.0, merge={"methods": listed})
        path = write_registry(tmp_path / "r", merges=merges, loss=lambda _: -1.0, seed=seed)
        report = assess(gate, registry=path)
        assert report.status == status
        if status == "inconclusive":
            assert any("too few for so many methods" in v.message for v in report.verdicts)

    def test_a_merge_that_was_made_is_not_said_to_be_missing(
        self, unlabelled: Callable[..., Path], tmp_path: Path, seed: int
    ) -> None:
        past = write_registry(tmp_path / NAME, merges=60, loss=lambda _: -1.0, seed=seed)
        ties = {"methods": [{"method": "ties", "density": 0.5}]}
        report = assess(unlabelled(20.0, merge=ties), registry=past)
        assert report.status == "pass"
        assert "MG305" not in {finding.code for finding in report.findings}

    @pytest.mark.parametrize(("inputs", "most"), [(64, None), (5, 64)])
    def test_a_score_on_fewer_inputs_than_theirs_passes_nothing(
        self,
        unlabelled: Callable[..., Path],
        tmp_path: Path,
        seed: int,
        inputs: int,
        most: int | None,
    ) -> None:
        past = write_registry(
            tmp_path / NAME, merges=60, loss=lambda _: -1.0, seed=seed, inputs=inputs, most=most
        )
        report = assess(unlabelled(20.0), registry=past)
        assert {v.status for v in report.verdicts} == {"inconclusive"}
        assert all("on more inputs than were compared here" in v.message for v in report.verdicts)

    def test_answers_that_were_cut_count_as_different(
        self, unlabelled: Callable[..., Path], tmp_path: Path, seed: int
    ) -> None:
        """What comes after the cut nobody compared."""
        past = write_registry(tmp_path / NAME, merges=60, loss=lambda r: -90.0 * r, seed=seed)
        report = assess(unlabelled(50.0, probes={"max_answer_tokens": 1}), registry=past)
        found = report.merges[0].experts
        assert any(expert.cut for expert in found)
        for expert in found:
            told = next(p for p in of(report, "registry") if p.expert == expert.name)
            known = expert.disagreement + expert.cut / expert.inputs
            assert told.loss == pytest.approx(-90.0 * min(1.0, known), abs=6)
        assert report.status != "pass"

    def test_the_beds_pass_nothing(self, unlabelled: Callable[..., Path]) -> None:
        report = assess(unlabelled(99.9))
        beds = of(report, "beds")
        assert len(beds) == 3
        assert all(p.interval and p.interval[0] > -99.9 for p in beds if p.loss and p.loss > -50)
        assert "pass" not in {v.status for v in report.verdicts if v.basis == "predicted"}

    def test_what_is_open_says_what_it_lacks(self, unlabelled: Callable[..., Path]) -> None:
        report = assess(unlabelled(60.0, merge={"methods": [_twins()]}))
        for verdict in report.verdicts:
            assert verdict.status in {"pass", "inconclusive", "fail"}
            if verdict.status == "inconclusive":
                assert "is certified on 5 inputs" in verdict.message

    def test_every_source_is_in_the_report(
        self, unlabelled: Callable[..., Path], tmp_path: Path, seed: int
    ) -> None:
        past = write_registry(tmp_path / NAME, merges=60, loss=lambda r: -100 * r, seed=seed)
        report = assess(unlabelled(20.0), registry=past)
        order = [p.source for p in report.predictions if p.expert == "a"]
        assert order == ["certificate", "registry", "beds", "paper"]
        for found in of(report, "registry"):
            merged = next(e for e in report.merges[0].experts if e.name == found.expert)
            rate = min(1.0, merged.disagreement + merged.cut / merged.inputs)
            assert found.loss == pytest.approx(-100 * rate, abs=5)
            assert found.interval is not None
            assert found.interval[0] <= found.loss <= found.interval[1]
            assert (found.merges, found.confidence) == (60, 0.9)

    def test_at_the_stage_of_states_the_surrogate_is_read(
        self, unlabelled: Callable[..., Path], tmp_path: Path, seed: int
    ) -> None:
        past = write_registry(tmp_path / NAME, merges=60, loss=lambda _: -1.0, seed=seed)
        report = assess(unlabelled(20.0), registry=past, stage="hidden")
        assert report.status == "pass"
        assert not report.merges
        assert all("factored sum" in v.message for v in report.verdicts)

    def test_a_measured_loss_is_not_predicted_away(
        self, gates: Gates, tmp_path: Path, seed: int
    ) -> None:
        past = write_registry(tmp_path / NAME, merges=60, loss=lambda _: 0.0, seed=seed)
        report = assess(gates.write(budget={"max_loss": 20.0}), registry=past)
        assert report.status != "pass"
        assert "predicted" not in {v.basis for v in report.verdicts}


class TestComparisons:
    """Answers that are compared by ROUGE-L learn nothing from those compared exactly, nor these
    from them: whatever else of a line is right, or says that it is."""

    @pytest.fixture
    def gated(self, unlabelled: Callable[..., Path]) -> Callable[[str], Path]:
        def write(metric: str) -> Path:
            gate = unlabelled(20.0)
            settings = read_gate(gate)
            for expert in settings["experts"].values():
                expert["metric"] = metric
            return write_gate(gate, settings)

        return write

    @pytest.mark.parametrize(
        ("metric", "comparison", "heard"),
        [
            ("rouge_l", "rouge_l", True),
            ("rouge_l", "exact", False),
            ("rouge_l", None, False),
            ("rouge_l", "ours:apart", False),
            ("exact_match", "exact", True),
            ("exact_match", None, True),
            ("exact_match", "rouge_l", False),
        ],
    )
    @pytest.mark.parametrize("loss", [-1.0, -90.0])
    def test_never_mix(
        self,
        gated: Callable[[str], Path],
        tmp_path: Path,
        seed: int,
        metric: str,
        comparison: str | None,
        heard: bool,
        loss: float,
    ) -> None:
        gate = gated(metric)
        reading = load_gate(gate).spec.reading_of("a")
        past = write_registry(
            tmp_path / NAME,
            merges=60,
            loss=lambda _: loss,
            seed=seed,
            metric=metric,
            reading=reading,
            compared_by=comparison,
        )
        report = assess(gate, registry=past)
        statuses = {v.status for v in report.verdicts}
        if heard:
            assert statuses == {"pass" if loss == -1 else "fail"}
        else:
            assert not of(report, "registry")
            assert "pass" not in statuses
        # the beds that came with the package were compared exactly
        assert bool(of(report, "beds")) is (metric == "exact_match")
        if metric == "rouge_l" and not heard:
            assert statuses == {"inconclusive"}
            said = "no loss is predicted: too few recorded merges are compared by rouge_l"
            assert all(said in v.message for v in report.verdicts)

    def test_of_one_pool_each_expert_hears_of_its_own(
        self, unlabelled: Callable[..., Path], tmp_path: Path, seed: int
    ) -> None:
        gate = unlabelled(20.0)
        settings = read_gate(gate)
        settings["experts"]["b"]["compare"] = "rouge_l"
        gate = write_gate(gate, settings)
        past = write_registry(tmp_path / NAME, merges=60, loss=lambda _: -1.0, seed=seed)
        report = assess(gate, registry=past)
        assert {p.expert for p in of(report, "registry")} == {"a", "c"}
        assert {p.expert for p in of(report, "beds")} == {"a", "c"}
        assert {v.expert: v.status for v in report.verdicts}["b"] == "inconclusive"

    @pytest.mark.parametrize("comparison", ["exact", "ours:apart", "rouge_l"])
    def test_a_limit_is_of_collapses_that_were_compared_so(
        self, gated: Callable[[str], Path], tmp_path: Path, seed: int, comparison: str
    ) -> None:
        settings = read_gate(gated("rouge_l")) | {"budget": {"max_disagreement": "auto@0.1"}}
        gate = write_gate(tmp_path / "auto.mergegate.yaml", settings)
        past = write_registry(
            tmp_path / NAME,
            merges=POOLS,
            loss=lambda _: -80.0,
            seed=seed,
            pools=True,
            metric="rouge_l",
            reading=load_gate(gate).spec.reading_of("a"),
            compared_by=comparison,
        )
        report = assess(gate, registry=past)
        limits = {v.limit for v in report.verdicts}
        if comparison == "rouge_l":
            assert None not in limits
        else:
            assert limits == {None}
            assert "0 recorded in different pools of answers compared by rouge_l" in (
                report.verdicts[0].message
            )


class TestLimitsFromTheRegistry:
    def test_is_the_threshold_of_the_lowest_collapse_of_every_pool(
        self, gates: Gates, tmp_path: Path, seed: int
    ) -> None:
        past = write_registry(
            tmp_path / NAME, merges=POOLS, loss=lambda r: -100 * r, seed=seed, pools=True
        )
        collapsed = [
            [e["scores"]["mds"] for e in line["experts"] if e["loss"] < -30]
            for line in map(json.loads, past.read_text().splitlines())
        ]
        lowest = sorted(min(scores) for scores in collapsed if scores)
        expected = lowest[int(0.1 * (len(lowest) + 1)) - 1]
        report = assess(gates.write(budget={"max_mds": "auto@0.1"}), registry=past)
        assert len(report.verdicts) == 3
        said = f"by {sum(map(len, collapsed))} recorded collapses of {len(lowest)} pools"
        for verdict in report.verdicts:
            assert verdict.limit == pytest.approx(expected, rel=2e-5)
            assert verdict.limit < expected
            over = verdict.value_infinite or verdict.value >= expected
            assert verdict.status == ("fail" if over else "pass")
            assert f"auto@0.1: misses at most 10%, {said}" in verdict.message

    def test_collapses_of_one_pool_count_once(
        self, gates: Gates, tmp_path: Path, seed: int
    ) -> None:
        past = write_registry(tmp_path / NAME, merges=60, loss=lambda r: -100 * r, seed=seed)
        report = assess(gates.write(budget={"max_mds": "auto@0.1"}), registry=past)
        assert {v.status for v in report.verdicts} == {"inconclusive"}
        assert "1 recorded in different pools" in report.verdicts[0].message

    @pytest.mark.parametrize("of", [{"base": "other"}, {"shared": None}, {"metric": "accuracy"}])
    def test_merges_that_are_no_evidence_set_no_limit(
        self, gates: Gates, tmp_path: Path, seed: int, of: dict[str, Any]
    ) -> None:
        past = write_registry(
            tmp_path / NAME, merges=POOLS, loss=lambda r: -100 * r, seed=seed, pools=True, **of
        )
        report = assess(gates.write(budget={"max_mds": "auto@0.1"}), registry=past)
        assert {v.status for v in report.verdicts} == {"inconclusive"}
        assert "0 recorded in different pools" in report.verdicts[0].message

    def test_asks_for_as_many_inputs_as_were_recorded(
        self, gates: Gates, tmp_path: Path, seed: int
    ) -> None:
        limit = {"max_disagreement": "auto@0.1"}
        for inputs, passes in ((6, True), (64, False)):
            past = write_registry(
                tmp_path / NAME,
                merges=POOLS,
                loss=lambda r: -100 * r,
                seed=seed,
                pools=True,
                inputs=inputs,
            )
            report = assess(gates.write(budget=limit), registry=past)
            more = [v for v in report.verdicts if "on more inputs than were looked at" in v.message]
            assert all(v.status == "inconclusive" for v in more)
            if passes:
                assert not more
            else:
                assert all(v.status != "pass" for v in report.verdicts)

    @pytest.mark.parametrize("registry", [None, NAME])
    def test_too_few_collapses_are_said_to_be_too_few(
        self, gates: Gates, tmp_path: Path, registry: str | None, seed: int
    ) -> None:
        past = tmp_path / NAME
        if registry:
            write_registry(past, merges=2, loss=lambda _: -50.0, seed=seed)
        report = assess(gates.write(budget={"max_mds": "auto@0.1"}), registry=past)
        assert report.status == "inconclusive"
        for verdict in report.verdicts:
            assert (verdict.status, verdict.limit) == ("inconclusive", None)
            assert verdict.limit_reason == "needs_more_collapses"
            assert (
                f"needs k ≥ 9 collapses for a miss rate of 0.1, {1 if registry else 0} recorded"
                in (verdict.message)
            )

    def test_a_cap_does_not_stand_in_for_it(self, gates: Gates, tmp_path: Path) -> None:
        gates.write(budget={"max_disagreement": "auto@0.1"})
        assert mergegate("check", gates.folder / "mergegate.yaml", "--max-disagreement=1") == 1

    def test_under_pytest(self, gates: Gates, pytester: pytest.Pytester, seed: int) -> None:
        gates.write(budget={"max_mds": "auto@0.1"})
        result = pytester.runpytest("--mergegate", "--mergegate-report=json", "-v")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(
            ["*undecided: auto@0.1: cannot certify: needs k ≥ 9 collapses*"]
        )
        for kind in ("html", "markdown", "sarif"):
            assert (
                mergegate("report", pytester.path / "mergegate-report.json", f"--{kind}=out") == 0
            )
        write_registry(
            pytester.path / NAME, merges=POOLS, loss=lambda r: -100 * r, seed=seed, pools=True
        )
        result = pytester.runpytest("--mergegate", "-v")
        result.stdout.fnmatch_lines(["*auto@0.1: misses at most 10%*"])


def test_lines_that_are_not_used_are_told(gates: Gates, tmp_path: Path, seed: int) -> None:
    past = write_registry(tmp_path / NAME, merges=3, loss=lambda _: -1.0, seed=seed)
    past.write_bytes(past.read_bytes()[:-40])
    report = assess(gates.write(budget={"max_mds": 100.0}), registry=past)
    (finding,) = (f for f in report.findings if f.code == "MG701")
    assert "line 3: left out: it was cut short" in finding.message


def _twins() -> dict[str, Any]:
    return {"method": "task_arithmetic", "weight": 0.5}
