"""The one place where a value meets a limit, on results made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import distinct, number_text
from pytest_mergegate.gate.budget import Budget
from pytest_mergegate.gate.gatefile import Gate, gate_from
from pytest_mergegate.metrics import disagreement_bound
from pytest_mergegate.stages.base_answers import BaseAnswers
from pytest_mergegate.verdict import judge as judging
from pytest_mergegate.verdict.evidence import Case, budget_questions
from pytest_mergegate.verdict.increases import Earlier
from pytest_mergegate.verdict.losses import base_loss

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.gate.options import Stage
    from pytest_mergegate.verdict.judge import Judgement, Verdict

NAMES = ("a", "b", "c")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Three experts and no budget of their own."""
    experts = {name: f"adapters/{name}" for name in NAMES}
    return gate_from({"base": "base", "experts": experts}, root=tmp_path)


def budgeted(gate: Gate, *, select: str = "any", mode: str = "point", **limits: float) -> Gate:
    """The gate under other limits."""
    merge = gate.spec.merge.model_copy(update={"select": select})
    update = {"budget": Budget(**limits), "merge": merge, "judge": mode}
    return replace(gate, spec=gate.spec.model_copy(update=update))


def pool(*labelled: str) -> Any:
    """A pool of which only the names, the labels and the scores asked for are."""
    asked = SimpleNamespace(experts=dict.fromkeys(NAMES, SimpleNamespace(min_score=None)))
    return SimpleNamespace(names=NAMES, labelled=lambda name: name in labelled, spec=asked)


def alone(rate: float = 1.0) -> Any:
    """What the base answers by itself: this share of every expert's inputs differently."""
    return {n: BaseAnswers(inputs=100, disagreement=round(100 * rate) / 100) for n in NAMES}


def judge(gate: Gate, results: Case, depth: Stage) -> Judgement:
    """The verdicts on a pool that came of ``gate``."""
    results.pool.spec = gate.spec  # type: ignore[misc]
    if results.base is None:
        results = replace(results, base=alone())
    return judging.judge(gate, results, depth)


def compared(name: str, disagreement: Value, upper: float, inputs: int, cut: int) -> Any:
    """One expert under a merge, its answers compared exactly."""
    rate = disagreement.number
    return SimpleNamespace(
        name=name,
        compared_by="exact",
        disagreement=disagreement,
        disagreement_upper=upper,
        inputs=inputs,
        planned=inputs,
        failed_early=False,
        cut=cut,
        least=rate,
        most=None if rate is None else round(rate * inputs + cut) / inputs,
    )


def merged(
    label: str, *rates: float | None, upper: float = 1.0, inputs: int = 100, cut: int = 0
) -> Any:
    """A merge with these disagreements."""

    def expert(name: str) -> Any:
        rate = rates[NAMES.index(name)]
        value = (
            Value.missing("lost")
            if rate is None
            else Value(number=rate, interval=(max(0.0, rate - 0.1), min(1.0, rate + 0.1)))
        )
        return compared(name, value, upper, inputs, cut)

    return SimpleNamespace(method=SimpleNamespace(label=label), expert=expert)


def scores(base: float, expert: float = 0.8) -> Any:
    """Mean scores of an expert by itself, and of the base on the same examples."""
    return SimpleNamespace(base=np.array([base]), expert=np.array([expert]), of_outputs=True)


def hidden(*scores: Value) -> Any:
    """Stage 3 with these difficulties."""
    experts = {n: SimpleNamespace(mds=s) for n, s in zip(NAMES, scores, strict=True)}
    return SimpleNamespace(experts=experts)


def conflict(**ratios: Value) -> Any:
    """Stage 2 with these sign changes; pairs are spelled ``ab``."""
    return SimpleNamespace(
        pairs=[SimpleNamespace(a=p[0], b=p[1], sign_change_ratio=v) for p, v in ratios.items()],
        worst_layer=lambda ratio, a, b: ("layers.1", 0.95),
    )


@pytest.mark.parametrize(
    ("rate", "status"),
    [
        pytest.param(0.29, "pass", id="below"),
        pytest.param(0.3, "pass", id="at the limit"),
        pytest.param(0.30000000000000004, "fail", id="just above"),
        pytest.param(1.0, "fail", id="above"),
        pytest.param(None, "inconclusive", id="missing"),
    ],
)
def test_status(gate: Gate, rate: float | None, status: str) -> None:
    results = Case(pool=pool(), merges=(merged("linear", 0.0, rate, 0.0),))
    assert judge(budgeted(gate, max_disagreement=0.3), results, "merge").status == status


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 29, 30])
def test_a_share_of_few_inputs_passes_on_its_bound(gate: Gate, n: int) -> None:
    """No difference in 9 inputs bounds the rate by .283, in 8 by .312 (THEORY 9)."""
    upper = disagreement_bound(0, n)
    none = merged("linear", 0.0, 0.0, 0.0, upper=upper, inputs=n)
    judgement = judge(
        budgeted(gate, max_disagreement=0.3), Case(pool=pool(), merges=(none,)), "merge"
    )
    assert judgement.status == ("pass" if n >= 9 else "inconclusive")
    assert ("pass on their bound" in judgement.verdicts[0].message) == (n < 30)


@pytest.mark.parametrize("mode", ["point", "bound"])
@pytest.mark.parametrize(
    ("rate", "cut", "status"),
    [
        pytest.param(0.0, 100, "inconclusive", id="all cut"),
        pytest.param(0.2, 10, "pass", id="within even so"),
        pytest.param(0.2, 11, "inconclusive", id="may be over"),
        pytest.param(0.31, 50, "fail", id="over without"),
    ],
)
def test_cut_answers_neither_agree_nor_differ(
    gate: Gate, mode: str, rate: float, cut: int, status: str
) -> None:
    end = min(100, round(100 * rate) + cut) / 100
    value = Value(number=rate, interval=(max(0.0, rate - 0.1), end))
    expert = compared("a", value, end, 100, cut)
    merge = SimpleNamespace(method=SimpleNamespace(label="linear"), expert=lambda _: expert)
    results = Case(pool=pool(), merges=(merge,))  # type: ignore[arg-type]
    gate = budgeted(gate, mode=mode, max_disagreement=0.3)
    judgement = judge(gate, results, "merge")
    assert judgement.status == status
    assert f"{cut} answers were cut" in judgement.verdicts[0].message


@pytest.mark.parametrize(
    ("budget", "limit", "base", "status"),
    [
        pytest.param("max_disagreement", 0.3, 0.31, "pass", id="another answer than the base's"),
        pytest.param("max_disagreement", 0.3, 0.3, "inconclusive", id="the base's own answers"),
        pytest.param("max_disagreement", 1.0, 1.0, "inconclusive", id="a limit for everybody"),
        pytest.param("max_loss", 10, 0.11, "pass", id="certified"),
        pytest.param("max_loss", 10, 0.1, "inconclusive", id="certified for the base"),
    ],
)
def test_a_pass_that_the_base_would_have_too(
    gate: Gate, budget: str, limit: float, base: float, status: str
) -> None:
    kept = merged("linear", 0.0, 0.0, 0.0, upper=0.05)
    results = Case(pool=pool(), merges=(kept,), base=alone(base))
    judgement = judge(budgeted(gate, **{budget: limit}), results, "merge")
    assert {v.status for v in judgement.verdicts} == {status}
    says = "a pass would say nothing of the merge" in judgement.verdicts[0].message
    assert says == (status == "inconclusive")


def test_a_base_that_was_not_looked_at_passes_nothing(gate: Gate) -> None:
    results = Case(pool=pool(), merges=(merged("linear", 0.0, 0.0, 0.0),))
    results.pool.spec = gate.spec  # type: ignore[misc]
    verdicts = judging.judge(gate, results, "merge").verdicts
    assert {v.status for v in verdicts} == {"inconclusive"}
    assert "base not compared" in verdicts[0].message


@pytest.mark.parametrize(
    ("measured", "given", "status"),
    [
        (0.8, None, "pass"),
        (0.79, 0.9, "inconclusive"),
        (None, 0.8, "pass"),
        (None, 0.79, "inconclusive"),
        (None, None, "inconclusive"),
    ],
)
def test_an_expert_that_must_itself_reach_a_score(
    gate: Gate, measured: float | None, given: float | None, status: str
) -> None:
    asked = gate.spec.experts["a"].model_copy(update={"min_score": 0.8, "score": given})
    spec = gate.spec.model_copy(update={"experts": gate.spec.experts | {"a": asked}})
    known = {} if measured is None else {"a": scores(0.0, measured)}
    results = Case(pool=pool(), merges=(merged("linear", 0, 0, 0),), scores=known)
    verdict = judge(replace(gate, spec=spec), results, "eval").verdicts[0]
    assert verdict.status == status
    assert ("min_score asks for 0.8" in verdict.message) == (status != "pass")


def test_a_score_to_reach_takes_the_stage_that_scores(gate: Gate) -> None:
    asked = gate.spec.experts["a"].model_copy(update={"min_score": 0.8})
    labelled, unlabelled = pool("a"), pool()
    for each in (labelled, unlabelled):
        each.spec = gate.spec.model_copy(update={"experts": gate.spec.experts | {"a": asked}})
    assert budget_questions(gate.spec, labelled).deepest == "eval"
    assert budget_questions(gate.spec, unlabelled).deepest == "merge"


@pytest.mark.parametrize(("select", "methods"), [("any", 1), ("any", 3), ("any", 10), ("all", 10)])
def test_the_chance_to_be_wrong_is_shared_among_the_methods_that_may_be_chosen(
    gate: Gate, select: str, methods: int
) -> None:
    listed = [{"method": "ties", "density": 0.05 * (k + 1)} for k in range(methods)]
    merge = {"methods": listed, "select": select}
    experts = {name: f"adapters/{name}" for name in NAMES}
    certificate = {"per_task": 64, "max_per_task": 256, "confidence": 0.9}
    spec = gate_from(
        {"base": "base", "experts": experts, "merge": merge, "certificate": certificate},
        root=gate.root,
    ).spec
    chosen = methods if select == "any" else 1
    assert spec.loss_level == pytest.approx(1 - 0.1 / chosen)
    assert spec.level == pytest.approx(1 - 0.1 / chosen / 3)


def test_infinite_difficulty_fails(gate: Gate) -> None:
    one, infinite = Value(number=1.0), Value(number=math.inf)
    results = Case(pool=pool(), hidden=hidden(one, infinite, one))
    judgement = judge(budgeted(gate, max_mds=1e300), results, "hidden")
    assert [v.status for v in judgement.verdicts] == ["pass", "fail", "pass"]
    assert "∞" in judgement.verdicts[1].message


def test_nan_is_no_value() -> None:
    with pytest.raises(ValueError, match="NaN"):
        Value(number=math.nan)
    assert Value.computed(lambda: math.nan).reason == "not_a_number"


def test_nan_past_all_checks_fails(gate: Gate) -> None:
    nan = Value(number=1.0)
    object.__setattr__(nan, "number", math.nan)
    one = Value(number=1.0)
    results = Case(pool=pool(), hidden=hidden(one, nan, one))
    assert judge(budgeted(gate, max_mds=3), results, "hidden").status == "fail"


def test_undefined_difficulty_is_inconclusive(gate: Gate) -> None:
    none = Value.missing("equidistant")
    results = Case(pool=pool(), hidden=hidden(none, none, none))
    judgement = judge(budgeted(gate, max_mds=3), results, "hidden")
    assert judgement.status == "inconclusive"
    assert "says nothing about their conflicts" in judgement.verdicts[0].message


def test_stage_that_did_not_run_is_inconclusive(gate: Gate) -> None:
    judgement = judge(budgeted(gate, max_mds=3), Case(pool=pool()), "conflict")
    assert judgement.status == "inconclusive"
    assert "needs stage hidden" in judgement.verdicts[0].message


def test_result_that_is_not_there_is_inconclusive(gate: Gate) -> None:
    judgement = judge(budgeted(gate, max_disagreement=1), Case(pool=pool()), "merge")
    assert {v.status for v in judgement.verdicts} == {"inconclusive"}


def test_no_verdict_is_no_pass(gate: Gate) -> None:
    nobody = SimpleNamespace(**vars(pool()) | {"names": ()})
    assert judge(gate, Case(pool=nobody), "merge").status == "inconclusive"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rates", "status"),
    [
        ((0.0, 0.1, 0.2), "pass"),
        ((0.0, None, 0.2), "inconclusive"),
        ((None, 0.9, 0.0), "fail"),
    ],
)
def test_the_worst_verdict_counts(gate: Gate, rates: Any, status: str) -> None:
    results = Case(pool=pool(), merges=(merged("linear", *rates),))
    assert judge(budgeted(gate, max_disagreement=0.3), results, "merge").status == status


class TestSelect:
    bad = merged("bad", 0.0, 0.5, 0.0)
    good = merged("good", 0.2, 0.2, 0.2)
    best = merged("best", 0.2, 0.1, 0.2)
    lost = merged("lost", 0.0, None, 0.0)

    def test_any_takes_a_method_that_passes(self, gate: Gate) -> None:
        results = Case(pool=pool(), merges=(self.bad, self.good))
        judgement = judge(budgeted(gate, max_disagreement=0.3), results, "merge")
        assert (judgement.status, judgement.method) == ("pass", "good")
        assert {v.method for v in judgement.verdicts} == {"good"}

    def test_any_takes_the_best_worst_expert(self, gate: Gate) -> None:
        worse = merged("worse", 0.0, 0.21, 0.0)
        results = Case(pool=pool(), merges=(worse, self.best))
        assert judge(budgeted(gate, max_disagreement=0.3), results, "merge").method == "best"

    def test_any_counts_nearness_to_each_limit(self, gate: Gate) -> None:
        steady = merged("steady", 0.2, 0.2, 0.2, upper=0.1)  # 2/3 of one limit, half of the other
        shaky = merged("shaky", 0.1, 0.1, 0.1, upper=0.19)  # 1/3, and 95 %
        results = Case(pool=pool(), merges=(shaky, steady))
        limited = budgeted(gate, max_disagreement=0.3, max_loss=20)
        assert judge(limited, results, "merge").method == "steady"

    def test_any_prefers_the_unknown_to_a_failure_but_does_not_pass(self, gate: Gate) -> None:
        results = Case(pool=pool(), merges=(self.bad, self.lost))
        judgement = judge(budgeted(gate, max_disagreement=0.3), results, "merge")
        assert (judgement.status, judgement.method) == ("inconclusive", "lost")

    def test_all_judges_every_method(self, gate: Gate) -> None:
        results = Case(pool=pool(), merges=(self.bad, self.good))
        limited = budgeted(gate, select="all", max_disagreement=0.3)
        judgement = judge(limited, results, "merge")
        assert (judgement.status, judgement.method) == ("fail", None)
        assert [v.method for v in judgement.verdicts] == ["bad"] * 3 + ["good"] * 3


class TestBound:
    def test_interval_end_is_judged(self, gate: Gate) -> None:
        results = Case(pool=pool(), merges=(merged("linear", 0.15, 0.25, 0.0),))
        judgement = judge(budgeted(gate, mode="bound", max_disagreement=0.3), results, "merge")
        assert [v.status for v in judgement.verdicts] == ["pass", "fail", "pass"]
        assert "bad end" in judgement.verdicts[1].message

    def test_without_an_interval_nothing_is_known(self, gate: Gate) -> None:
        one = Value(number=1.0)
        results = Case(pool=pool(), hidden=hidden(one, one, one))
        judgement = judge(budgeted(gate, mode="bound", max_mds=3), results, "hidden")
        assert judgement.status == "inconclusive"

    def test_infinite_end_fails(self, gate: Gate) -> None:
        open_ended = Value(number=1.0, interval=(1.0, math.inf))
        results = Case(pool=pool(), hidden=hidden(*[open_ended] * 3))
        assert judge(budgeted(gate, mode="bound", max_mds=3), results, "hidden").status == "fail"

    def test_certificate_is_a_bound_already(self, gate: Gate) -> None:
        results = Case(pool=pool(), merges=(merged("linear", 0, 0, 0, upper=0.1),))
        judgement = judge(budgeted(gate, mode="bound", max_loss=10), results, "merge")
        assert {(v.basis, v.status) for v in judgement.verdicts} == {("certified", "pass")}


class TestLoss:
    def test_certified_loss_needs_the_score(self, gate: Gate) -> None:
        """u = .1 of a perfect expert is 10 %, of one with score .5 it is 20 %."""
        experts = gate.spec.experts
        scored = experts | {"b": experts["b"].model_copy(update={"score": 0.5})}
        spec = gate.spec.model_copy(update={"experts": scored})
        results = Case(pool=pool(), merges=(merged("linear", 0, 0, 0, upper=0.1),))
        judgement = judge(budgeted(replace(gate, spec=spec), max_loss=15), results, "merge")
        assert [v.value.number for v in judgement.verdicts] == pytest.approx([10, 20, 10])
        assert [v.status for v in judgement.verdicts] == ["pass", "inconclusive", "pass"]

    def test_measured_loss_is_positive_when_worse(self, gate: Gate) -> None:
        verdict = self.measured(gate, Value(number=-12.0, interval=(-30.0, 5.0)))
        assert (verdict.value.number, verdict.value.interval) == (12, (-5, 30))
        assert (verdict.basis, verdict.status) == ("measured", "fail")

    @staticmethod
    def measured(
        gate: Gate, loss: Value, examples: int = 30, limit: float = 10, base: float = 0.0
    ) -> Verdict:
        """The verdict on expert a where that loss was measured."""
        expert = SimpleNamespace(name="a", loss=loss, examples=examples)
        scored = SimpleNamespace(method="linear", experts=[expert])
        results = Case(
            pool=pool("a"),
            merges=(merged("linear", 0, 0, 0, upper=0),),
            evaluations=(scored,),
            scores={"a": scores(base)},
        )  # type: ignore[arg-type]
        return judge(budgeted(gate, max_loss=limit), results, "eval").verdicts[0]

    @pytest.mark.parametrize(
        ("low", "number", "few", "enough"),
        [
            (-9.0, 0.0, "pass", "pass"),
            (-11.0, 0.0, "inconclusive", "pass"),
            (-100.0, -100.0, "fail", "fail"),
        ],
    )
    def test_few_examples_pass_on_the_bad_end_alone(
        self, gate: Gate, low: float, number: float, few: str, enough: str
    ) -> None:
        loss = Value(number=number, interval=(low, number))
        verdict = self.measured(gate, loss, examples=29)
        assert (verdict.status, verdict.basis) == (few, "measured")
        assert "fewer than 30 pass on the interval's bad end" in verdict.message
        assert self.measured(gate, loss, examples=30).status == enough

    @pytest.mark.parametrize(
        ("number", "interval", "needed"),
        [
            pytest.param(-12.0, (-30.0, 5.0), 40 * 17**2 / 2**2, id="over: the end below counts"),
            pytest.param(-8.0, (-30.0, 5.0), 40 * 22**2 / 2**2, id="within: the end above counts"),
            pytest.param(-12.0, (-30.0, -10.0), 41, id="the limit at the end"),
        ],
    )
    def test_how_many_examples_would_decide(
        self, gate: Gate, number: float, interval: Any, needed: float
    ) -> None:
        verdict = self.measured(gate, Value(number=number, interval=interval), examples=40)
        assert f"about {needed:.0f} in all would likely decide it" in verdict.message
        assert verdict.status == ("fail" if number < -10 else "pass")

    @pytest.mark.parametrize(
        ("base", "number", "status"),
        [
            pytest.param(0.71, -5.0, "pass", id="the base lost more than is allowed"),
            pytest.param(0.72, -5.0, "inconclusive", id="the base would pass too"),
            pytest.param(0.9, 20.0, "inconclusive", id="the base is better"),
            pytest.param(0.9, -20.0, "fail", id="over all the same"),
        ],
    )
    def test_a_pass_that_the_base_has_too_says_nothing(
        self, gate: Gate, base: float, number: float, status: str
    ) -> None:
        loss = Value(number=number, interval=(number, number))
        verdict = self.measured(gate, loss, base=base)
        assert verdict.status == status
        assert ("a pass would say nothing" in verdict.message) == (status == "inconclusive")

    def test_a_loss_at_its_limit(self, gate: Gate) -> None:
        verdict = self.measured(gate, Value(number=-10.0, interval=(-30.0, 5.0)))
        assert verdict.status == "pass"
        assert "cannot be told apart from the limit by sampling" in verdict.message

    @pytest.mark.parametrize("interval", [(-9.0, 5.0), (-10.0, 5.0), (-10.0, -10.0)])
    def test_a_limit_outside_the_interval(self, gate: Gate, interval: Any) -> None:
        verdict = self.measured(gate, Value(number=interval[0], interval=interval))
        assert verdict.message.endswith("(measured on 30 examples)")

    @pytest.mark.parametrize(
        ("rate", "says"),
        [(0.0, "at the rate of 0 in 10 it takes 29 inputs"), (0.1, None), (0.5, None)],
    )
    def test_a_certificate_says_what_it_lacks(
        self, gate: Gate, rate: float, says: str | None
    ) -> None:
        results = Case(pool=pool(), merges=(merged("linear", rate, 0, 0, upper=0.6, inputs=10),))
        verdict = judge(budgeted(gate, max_loss=10), results, "merge").verdicts[0]
        assert verdict.status == "inconclusive"  # another answer may be as right
        assert verdict.message.endswith(f"(certified on 10 inputs{f'; {says}' if says else ''})")

    def test_gain_passes_a_limit_of_zero(self, gate: Gate) -> None:
        loss = Value(number=3.0, interval=(0.0, 5.0))
        scored = SimpleNamespace(
            method="linear",
            experts=[SimpleNamespace(name=n, loss=loss, examples=30) for n in NAMES],
        )
        results = Case(
            pool=pool(*NAMES), merges=(merged("linear", 0, 0, 0),), evaluations=(scored,)
        )  # type: ignore[arg-type]
        assert judge(budgeted(gate, max_loss=0), results, "eval").status == "pass"

    def test_labelled_expert_is_not_certified_below_its_stage(self, gate: Gate) -> None:
        results = Case(pool=pool("a"), merges=(merged("linear", 0, 0, 0, upper=0),))
        judgement = judge(budgeted(gate, max_loss=10), results, "merge")
        assert [v.status for v in judgement.verdicts] == ["inconclusive", "pass", "pass"]


class TestGainKept:
    """A limit that must be reached: more is better."""

    @staticmethod
    def kept(*gains: Value, examples: int = 30, method: str = "linear") -> Any:
        """What a merge keeps of each expert's gain."""
        no_loss = Value(number=0.0, interval=(-1.0, 1.0))
        experts = [
            SimpleNamespace(name=name, gain_kept=gain, loss=no_loss, examples=examples)
            for name, gain in zip(NAMES, gains, strict=True)
        ]
        return SimpleNamespace(method=method, experts=experts)

    def judged(self, gate: Gate, *found: Any, labelled: Any = NAMES, **asked: Any) -> Judgement:
        """The verdicts on merges by linear, and by other methods where more are found."""
        results = Case(
            pool=pool(*labelled),
            merges=tuple(merged(one.method, 0, 0, 0) for one in found),
            evaluations=found,
        )
        return judge(budgeted(gate, **{"min_gain_kept": 0.7} | asked), results, "eval")

    @staticmethod
    def near(gain: float) -> Value:
        return Value(number=gain, interval=(gain - 0.1, gain + 0.1))

    def test_one_that_loses_more_than_is_allowed_fails(self, gate: Gate) -> None:
        found = self.judged(gate, self.kept(*map(self.near, (0.9, 0.6999, 0.7))))
        assert [v.status for v in found.verdicts] == ["pass", "fail", "pass"]
        assert found.status == "fail"
        told = [v.message for v in found.verdicts]
        assert told[0].startswith("a: gain kept 0.9 [0.8, 1] at least 0.7 under linear (measured")
        assert "b: gain kept 0.6999 [0.6, 0.8] below 0.7 under linear" in told[1]
        assert "the limit is inside the interval; about" in told[1]
        assert [v.value.number for v in found.verdicts] == [0.9, 0.6999, 0.7]

    @pytest.mark.parametrize(
        ("examples", "mode", "low", "status"),
        [
            (30, "point", 0.1, "pass"),
            (29, "point", 0.1, "inconclusive"),
            (29, "point", 0.7, "pass"),
            (500, "bound", 0.69, "fail"),
            (500, "bound", 0.7, "pass"),
        ],
    )
    def test_the_bad_end_is_the_lower_one(
        self, gate: Gate, examples: int, mode: str, low: float, status: str
    ) -> None:
        gain = Value(number=0.9, interval=(low, 3.0))
        found = self.judged(gate, self.kept(gain, gain, gain, examples=examples), mode=mode)
        assert {v.status for v in found.verdicts} == {status}

    @pytest.mark.parametrize(
        ("reason", "says"),
        [
            ("expert_gains_nothing", "the expert itself scores no more than its base"),
            ("expert_gain_unclear", "do not show that the expert scores more than its base"),
        ],
    )
    def test_no_gain_is_no_pass(self, gate: Gate, reason: str, says: str) -> None:
        missing = Value.missing(reason)
        for mode in ("point", "bound"):
            found = self.judged(gate, self.kept(missing, missing, missing), mode=mode)
            assert found.status == "inconclusive"
            assert all(says in v.message for v in found.verdicts)

    def test_without_targets_nothing_is_measured(self, gate: Gate) -> None:
        results = Case(pool=pool(), merges=(merged("linear", 0, 0, 0, upper=0.0),))
        found = judge(budgeted(gate, min_gain_kept=0.7), results, "merge")
        assert found.status == "inconclusive"
        told = found.verdicts[0].message
        assert told.startswith("a: gain kept under linear undecided: it is measured on examples")
        assert "fix: add a target" in told

    def test_a_labelled_expert_takes_the_stage_that_scores(self, gate: Gate) -> None:
        results = Case(pool=pool("a"), merges=(merged("linear", 0, 0, 0, upper=0.0),))
        limited = budgeted(gate, min_gain_kept=0.7)
        found = judge(limited, results, "merge")
        assert budget_questions(limited.spec, results.pool).deepest == "eval"
        assert "needs stage eval" in found.verdicts[0].message

    @pytest.mark.parametrize("limit", [0.0, -0.0])
    def test_what_the_base_keeps_by_itself_says_nothing(self, gate: Gate, limit: float) -> None:
        """The base keeps nothing, so that any limit above that says something."""
        found = self.judged(gate, self.kept(*map(self.near, (0.9,) * 3)), min_gain_kept=limit)
        assert found.status == "inconclusive"
        assert "the base by itself has a gain kept of 0" in found.verdicts[0].message
        found = self.judged(gate, self.kept(*map(self.near, (0.9,) * 3)), min_gain_kept=1e-6)
        assert found.status == "pass"

    def test_any_takes_the_method_that_keeps_most_of_the_worst(self, gate: Gate) -> None:
        for gains, best in (
            ([(0.9, 0.9, 0.2), (0.5, 0.5, 0.5)], "ties"),
            ([(0.9, 0.9, 0.5), (0.5, 0.5, 0.2)], "linear"),
            ([(0.9, 0.9, 0.2), (0.75, 0.75, 0.75)], "ties"),
            ([(-3.0, 0.9, 0.9), (0.0, 0.0, 0.0)], "ties"),
        ):
            found = [
                self.kept(*map(self.near, own), method=method)
                for own, method in zip(gains, ("linear", "ties"), strict=True)
            ]
            assert self.judged(gate, *found).method == best

    def test_it_stands_beside_other_limits(self, gate: Gate) -> None:
        """Of two methods the one that is within both, whichever way each limit looks."""
        keeps = [
            self.kept(*map(self.near, (0.9,) * 3), method="linear"),
            self.kept(*map(self.near, (0.8,) * 3), method="ties"),
        ]
        keeps[0].experts[1].loss = Value(number=-40.0, interval=(-50.0, -30.0))
        results = Case(
            pool=pool(*NAMES),
            merges=(merged("linear", 0, 0, 0), merged("ties", 0, 0, 0)),
            evaluations=tuple(keeps),
            scores=dict.fromkeys(NAMES, scores(0.0)),
        )
        found = judge(budgeted(gate, min_gain_kept=0.7, max_loss=10), results, "eval")
        assert (found.method, found.status) == ("ties", "pass")


class TestRatios:
    def test_worst_pair_is_judged(self, gate: Gate) -> None:
        pairs = conflict(ab=Value(number=0.2), ac=Value(number=0.9), bc=Value(number=0.1))
        limited = budgeted(gate, max_sign_change_ratio=0.5)
        judgement = judge(limited, Case(pool=pool(), conflict=pairs), "conflict")
        assert [v.value.number for v in judgement.verdicts] == [0.9, 0.2, 0.9]
        assert "with c, 0.95 in layers.1" in judgement.verdicts[0].message
        assert "layers" not in judgement.verdicts[1].message
        assert {v.basis for v in judgement.verdicts} == {"conflict"}

    @pytest.mark.parametrize(("mode", "status"), [("point", "pass"), ("bound", "fail")])
    def test_a_sampled_ratio_has_a_bad_end(self, gate: Gate, mode: str, status: str) -> None:
        ratio = Value(number=0.49, interval=(0.47, 0.51), standard_error=0.01)
        pairs = conflict(ab=ratio, ac=ratio, bc=ratio)
        limited = budgeted(gate, max_sign_change_ratio=0.5)
        limited = replace(limited, spec=limited.spec.model_copy(update={"judge": mode}))
        judgement = judge(limited, Case(pool=pool(), conflict=pairs), "conflict")
        assert {v.status for v in judgement.verdicts} == {status}
        assert {v.basis for v in judgement.verdicts} == {"sampled"}

    def test_the_bad_end_of_another_pair(self, gate: Gate) -> None:
        """The largest estimate is not always the one that may be largest."""
        wide = Value(number=0.48, interval=(0.38, 0.58), standard_error=0.05)
        narrow = Value(number=0.49, interval=(0.489, 0.491), standard_error=0.0005)
        pairs = conflict(ab=wide, ac=narrow, bc=narrow)
        limited = budgeted(gate, max_sign_change_ratio=0.5)
        limited = replace(limited, spec=limited.spec.model_copy(update={"judge": "bound"}))
        judgement = judge(limited, Case(pool=pool(), conflict=pairs), "conflict")
        assert [v.status for v in judgement.verdicts] == ["fail", "fail", "pass"]

    @pytest.mark.parametrize(
        ("known", "status"), [pytest.param(0.9, "fail"), pytest.param(0.1, "inconclusive")]
    )
    def test_undefined_pair_hides_no_failure(self, gate: Gate, known: float, status: str) -> None:
        undefined = Value.missing("zero_task_vectors")
        pairs = conflict(ab=undefined, ac=Value(number=known), bc=Value(number=known))
        limited = budgeted(gate, max_sign_change_ratio=0.5)
        judgement = judge(limited, Case(pool=pool(), conflict=pairs), "conflict")
        assert judgement.verdicts[0].status == status


@pytest.mark.parametrize(
    ("limits", "labelled", "allowed", "depth"),
    [
        pytest.param({}, (), None, "merge", id="default"),
        pytest.param({"max_sign_change_ratio": 0.5}, (), None, "conflict", id="ratio"),
        pytest.param({"max_mds": 3}, ("a",), None, "hidden", id="mds"),
        pytest.param({"max_loss": 10}, (), None, "merge", id="certified"),
        pytest.param({"max_loss": 10}, ("b",), None, "eval", id="measured"),
        pytest.param({"max_loss": 10}, ("b",), "hidden", "hidden", id="cut short"),
        pytest.param({"max_mds": 3}, (), "eval", "hidden", id="no deeper than needed"),
    ],
)
def test_depth(
    gate: Gate, limits: dict[str, float], labelled: tuple[str, ...], allowed: Any, depth: str
) -> None:
    spec = budgeted(gate, **limits).spec
    assert budget_questions(spec, pool(*labelled), allowed).deepest == depth


class TestCaps:
    def test_tighten(self) -> None:
        budget = Budget(max_mds=3.0, max_loss=10)
        assert budget.capped({"max_mds": 2.0, "max_loss": 20}).limits == {
            "max_mds": 2.0,
            "max_loss": 10,
        }

    def test_add_what_is_absent(self) -> None:
        assert Budget().capped({"max_mds": 2.0}).limits == {"max_mds": 2.0}

    def test_default_limit_where_there_is_none(self, gate: Gate) -> None:
        assert gate.spec.effective_budget.limits == {"max_disagreement": 0.3}
        assert budgeted(gate, max_mds=0).spec.effective_budget.limits == {"max_mds": 0}


@pytest.mark.parametrize(
    ("value", "limit", "texts"),
    [
        pytest.param(2.0, 3.0, ("2", "3"), id="plain"),
        pytest.param(3.0000001, 3.0, ("3.0000001", "3"), id="near"),
        pytest.param(0.1 + 0.2, 0.3, ("0.30000000000000004", "0.3"), id="one bit apart"),
        pytest.param(0.3, 0.3, ("0.3", "0.3"), id="equal"),
        pytest.param(math.inf, 3.0, ("∞", "3"), id="infinite"),
    ],
)
def test_digits_show_the_difference(value: float, limit: float, texts: tuple[str, str]) -> None:
    assert distinct(value, limit) == texts


def test_number_text_has_no_minus_zero() -> None:
    assert number_text(-0.0) == "0"


def test_two_total_losses_are_told_apart_by_the_others(gate: Gate) -> None:
    """Predicted ones differ a little between methods, which says nothing."""
    merges = (merged("ruins", 0.999, 0.998, 0.997), merged("spares", 1.0, 0.1, 0.1))
    judgement = judge(
        budgeted(gate, max_disagreement=0.3), Case(pool=pool(), merges=merges), "merge"
    )
    assert judgement.method == "spares"


class TestWhoIsHeldToAnIncrease:
    """A new expert has nothing to increase from, where another limit holds it."""

    def experts(self, gate: Gate, earlier: Any, **limits: float) -> set[str]:
        one = Value(number=1.0, interval=(1.0, 1.0))
        case = Case(pool=pool(), hidden=hidden(one, one, one), earlier=earlier)
        judgement = judge(budgeted(gate, **limits), case, "hidden")
        return {v.expert for v in judgement.verdicts if v.budget == "max_mds_increase"}

    def test_those_of_the_baseline_beside_another_limit(self, gate: Gate) -> None:
        known = Earlier(experts=frozenset("ab"))
        assert self.experts(gate, known, max_mds_increase=0.1, max_mds=3) == {"a", "b"}

    @pytest.mark.parametrize(
        "earlier",
        [
            pytest.param(None, id="no baseline"),
            pytest.param(Earlier(reason="other probes", experts=frozenset("ab")), id="another"),
        ],
    )
    def test_all_where_there_is_nothing_to_compare_with(self, gate: Gate, earlier: Any) -> None:
        assert self.experts(gate, earlier, max_mds_increase=0.1, max_mds=3) == set("abc")

    def test_all_where_nothing_else_holds_them(self, gate: Gate) -> None:
        assert self.experts(gate, Earlier(experts=frozenset("ab")), max_mds_increase=0.1) == set(
            "abc"
        )


@pytest.mark.parametrize(
    ("score", "differing", "percent"), [(0.5, 10, 20.0), (0.5, 80, 100.0), (1.0, 10, 10.0)]
)
def test_the_base_loses_every_answer_that_differs(
    gate: Gate, score: float, differing: int, percent: float
) -> None:
    """Of what the expert has to lose, and no more than all of it."""
    asked = SimpleNamespace(experts={"a": SimpleNamespace(score=score)})
    case = Case(
        pool=SimpleNamespace(spec=asked),  # type: ignore[arg-type]
        base={"a": BaseAnswers(inputs=100, disagreement=differing / 100)},
    )
    assert base_loss("a", case).number == pytest.approx(percent)


def test_statuses_and_exit_codes_are_pytests_own() -> None:
    assert [int(code) for code in Exit] == [0, 1, 2, 4, 5]
    assert Exit.PASSED == pytest.ExitCode.OK
    assert Exit.NOT_PASSED == pytest.ExitCode.TESTS_FAILED
    assert Exit.BAD_OPTIONS == pytest.ExitCode.USAGE_ERROR
    assert Exit.NOTHING_GATED == pytest.ExitCode.NO_TESTS_COLLECTED
