"""What is expected of an expert, from where it and a merge answer differently."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_mergegate import metrics
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.distances import Distances
from pytest_mergegate.gate.spec import GateSpec
from pytest_mergegate.planning.limits import (
    ComparedAnswers,
    MergeLimits,
    PoolLimits,
    refuse_unplanned,
)
from pytest_mergegate.planning.weights import OwnInputRisk

if TYPE_CHECKING:
    from pytest_mergegate.planning.forecasts import ExpertForecast


def holding(budget: dict[str, float], **gate: Any) -> MergeLimits:
    experts = {"a": {"path": "a"} | gate.pop("expert", {}), "b": {"path": "b"}}
    return MergeLimits(GateSpec.model_validate({"experts": experts, "budget": budget, **gate}))


def differing(count: int, of: int = 64, **more: Any) -> ComparedAnswers:
    return answered((True,) * count + (False,) * (of - count), (False,) * of, **more)


def answered(differs: tuple[bool, ...], cut: tuple[bool, ...], **more: Any) -> ComparedAnswers:
    return ComparedAnswers(distances=Distances.exact(differs, cut), **more)


def outlook(budget: dict[str, float], found: ComparedAnswers, **gate: Any) -> ExpertForecast:
    return holding(budget, **gate).of("a", found)


@pytest.mark.parametrize(("count", "status"), [(0, "pass"), (19, "pass"), (20, "fail")])
def test_a_disagreement_is_that_of_the_certificate_s_inputs(count: int, status: str) -> None:
    found = outlook({"max_disagreement": 0.3}, differing(count))
    assert found.status == status
    assert found.disagreement.number == count / 64
    more = differing(count) + differing(36, 36)
    assert outlook({"max_disagreement": 0.3}, more).status == status


def test_judged_on_its_bad_end() -> None:
    assert outlook({"max_disagreement": 0.3}, differing(14), judge="bound").status == "fail"
    assert outlook({"max_disagreement": 0.3}, differing(14)).status == "pass"


@pytest.mark.parametrize("judge", ["point", "bound"])
@pytest.mark.parametrize(
    ("count", "cut", "status"), [(0, 1, "pass"), (10, 20, "inconclusive"), (20, 20, "fail")]
)
def test_answers_that_were_cut_neither_agree_nor_differ(
    judge: str, count: int, cut: int, status: str
) -> None:
    ends = (False,) * count + (True,) * cut + (False,) * (64 - count - cut)
    found = answered((True,) * count + (False,) * (64 - count), ends)
    assert outlook({"max_disagreement": 0.3}, found, judge=judge).status == status


def test_a_limit_of_zero() -> None:
    assert outlook({"max_disagreement": 0.0}, differing(0)).status == "pass"
    found = outlook({"max_disagreement": 0.0}, differing(1))
    assert (found.status, found.use) == ("fail", np.inf)


class TestLoss:
    def test_counts_what_the_expert_got_right(self) -> None:
        scores = np.array([0.0] * 10 + [1.0] * 90)
        found = outlook({"max_loss": 10}, differing(15, 100, scores=scores, labelled=100))
        assert found.loss.number == pytest.approx(100 * 5 / 90)
        assert found.status == "pass"
        assert outlook({"max_loss": 5}, differing(15, 100, scores=scores, labelled=100)).use > 1

    def test_of_unknown_scores_is_relative_to_the_one_given(self) -> None:
        found = outlook({"max_loss": 10}, differing(9, 100, labelled=100), expert={"score": 0.5})
        assert found.loss.number == pytest.approx(18)
        assert found.status == "fail"

    @pytest.mark.parametrize("labelled", [0, 64])
    def test_is_not_foretold_by_what_does_not_bound_it(self, labelled: int) -> None:
        """Another word may be all that an exact match is about."""
        near = replace(differing(0).distances, comparison="rouge_l", seen=(0.02,) * 64)
        near = replace(near, least=near.seen, most=near.seen)
        found = ComparedAnswers(distances=near, scores=np.ones(64), labelled=labelled)
        for metric, status in {"exact_match": "inconclusive", "rouge_l": "pass"}.items():
            expert = {"metric": metric, "compare": "rouge_l"}
            assert outlook({"max_loss": 20}, found, expert=expert).status == status

    def test_on_few_examples_is_not_judged(self) -> None:
        found = outlook({"max_loss": 100}, differing(0, 29, labelled=29))
        assert found.status == "inconclusive"
        assert "it takes 30" in found.why

    def test_of_an_expert_that_gets_nothing_right(self) -> None:
        zero = differing(0, 50, scores=np.zeros(50), labelled=50)
        found = outlook({"max_loss": 100}, zero)
        assert found.status == "inconclusive"
        assert found.loss.reason == "expert_score_zero"

    def test_without_labels_is_certified(self) -> None:
        found = outlook({"max_loss": 5}, differing(0))
        assert found.loss.number == pytest.approx(100 * metrics.disagreement_bound(0, 64))
        assert found.status == "pass"
        assert outlook({"max_loss": 4}, differing(0)).status == "inconclusive"
        assert outlook({"max_loss": 4}, differing(30)).status == "fail"

    def test_answers_that_were_cut_count_against_a_certificate(self) -> None:
        cut = answered((False,) * 64, (True,) * 32 + (False,) * 32)
        assert outlook({"max_loss": 20}, cut).status != "pass"

    def test_judged_on_its_bad_end_reaches_as_far_as_scores_allow(self) -> None:
        scores = np.array([1.0, 0.0] * 50)
        even = differing(0, 100, scores=scores, labelled=100)
        _, high = metrics.disagreement_interval(0, 100, confidence=0.95)
        assert outlook({"max_loss": 100 * high}, even).status == "pass"
        assert outlook({"max_loss": 199 * high}, even, judge="bound").status == "fail"
        assert outlook({"max_loss": 201 * high}, even, judge="bound").status == "pass"


@pytest.mark.parametrize("judge", ["point", "bound"])
@pytest.mark.parametrize("scored", [True, False])
def test_who_is_lost_early_is_lost_in_the_end(judge: str, scored: bool) -> None:
    rng = np.random.default_rng(0)
    held = holding({"max_disagreement": 0.4, "max_loss": 20}, judge=judge)
    lost = 0
    for _ in range(300):
        share, count = rng.uniform(0, 0.6), 200
        differs = tuple(map(bool, rng.random(count) < share))
        scores = rng.integers(0, 2, count).astype(np.float64) if scored else None
        parts = [
            answered(
                differs[at],
                (False,) * len(differs[at]),
                scores=None if scores is None else scores[at],
                labelled=count,
            )
            for at in (slice(64), slice(64, None))
        ]
        early = held.is_lost("a", *parts)
        lost += early
        assert not early or held.of("a", parts[0] + parts[1]).status == "fail"
    assert 20 < lost < 280


def test_the_worse_of_two_budgets_counts() -> None:
    budget = {"max_disagreement": 0.9, "max_loss": 1}
    found = outlook(budget, differing(9, 100, labelled=100))
    assert found.status == "fail"
    assert "loss" in found.why


def test_inputs_are_the_certificate_s_unless_labels_ask_for_more() -> None:
    assert holding({"max_disagreement": 0.3}).inputs(500, 256) == 64
    assert holding({"max_loss": 10}).inputs(500, 256) == 256
    assert holding({"max_loss": 10}).inputs(0, 256) == 64
    assert holding({"max_loss": 10}).inputs(40, 256) == 64


def test_risk_is_the_own_input_distortion_of_the_group() -> None:
    rng = np.random.default_rng(0)
    shifts = rng.normal(size=(5, 5, 7))
    grams = [own @ own.T for own in shifts]
    risk = OwnInputRisk(dict(zip("abcde", grams, strict=True)))
    for group in ((0, 1), (1, 3, 4), (0, 1, 2, 3, 4)):
        part = np.stack([grams[i][np.ix_(group, group)] for i in group])
        shares = np.full(len(group), 1 / len(group))
        names = ["abcde"[k] for k in group]
        assert risk.of(names) == pytest.approx(metrics.worst_own_input_distortion(part, shares))
    still = OwnInputRisk(dict.fromkeys("ab", np.zeros((2, 2))))
    assert still.of("ab") == 0


class TestPoolLimits:
    """What weights and states say against a group, whatever the method."""

    @staticmethod
    def limits(budget: dict[str, float], ratio: Value, mds: Value, judge: str) -> PoolLimits:
        experts = {name: name for name in "abc"}
        told = {"experts": experts, "budget": budget, "judge": judge}
        spec = GateSpec.model_validate(told)
        states = SimpleNamespace(names=tuple("abc"))
        own = {name: SimpleNamespace(mds=mds) for name in "abc"}
        hidden: Any = SimpleNamespace(
            states=states, experts=own, distances=np.zeros((3, 3)), similarity=None
        )
        one = Value(number=0.1)
        pairs = [("a", "b", ratio), ("a", "c", one), ("b", "c", one)]
        conflict: Any = SimpleNamespace(
            pairs=[SimpleNamespace(a=a, b=b, sign_change_ratio=value) for a, b, value in pairs]
        )
        return PoolLimits(spec, hidden, conflict)

    @pytest.mark.parametrize(
        ("judge", "ratio", "mds", "against", "undecided"),
        [
            pytest.param("point", Value(number=0.5), Value(number=3.0), (), (), id="at the limits"),
            pytest.param(
                "point",
                Value(number=0.6),
                Value(number=1.0),
                ("sign change ratio of a and b is 0.6, over 0.5",),
                (),
                id="a pair",
            ),
            pytest.param(
                "point",
                Value(number=0.4, interval=(0.3, 0.6), standard_error=0.1),
                Value(number=math.inf),
                tuple(f"MDS of {name} is ∞, over 3" for name in "abc"),
                (),
                id="an infinite MDS",
            ),
            pytest.param(
                "bound",
                Value(number=0.4, interval=(0.3, 0.6), standard_error=0.1),
                Value(number=1.0, interval=(0.5, 2.0)),
                ("sign change ratio of a and b is 0.6, over 0.5",),
                (),
                id="a bad end",
            ),
            pytest.param(
                "bound",
                Value(number=0.4),
                Value(number=1.0),
                (),
                ("MDS of 3 experts is not defined (too_few_probes)",),
                id="no bad end",
            ),
            pytest.param(
                "point",
                Value.missing("zero_task_vectors"),
                Value.missing("equidistant"),
                (),
                (
                    "sign change ratio of a and b is not known (zero_task_vectors)",
                    "MDS of 3 experts is not defined (equidistant)",
                ),
                id="undefined",
            ),
        ],
    )
    def test_what_is_said(
        self,
        judge: str,
        ratio: Value,
        mds: Value,
        against: tuple[str, ...],
        undecided: tuple[str, ...],
    ) -> None:
        budget = {"max_mds": 3.0, "max_sign_change_ratio": 0.5}
        limits = self.limits(budget, ratio, mds, judge)
        assert limits.against(("a", "b", "c")) == (against, undecided)


@pytest.mark.parametrize("budget", ["max_mds_increase", "max_loss_increase"])
def test_what_is_held_against_a_baseline_is_not_planned_for(budget: str) -> None:
    told = {"experts": {"a": "a", "b": "b"}, "budget": {budget: 1.0}}
    with pytest.raises(GateError, match=f"{budget} cannot be planned for"):
        refuse_unplanned(GateSpec.model_validate(told))
