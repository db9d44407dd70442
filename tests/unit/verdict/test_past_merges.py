"""What recorded merges may decide: a loss that they predict, a limit that they set."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from history.calibration.making import observed

from pytest_mergegate.common.values import Value
from pytest_mergegate.gate.gatefile import Gate, gate_from
from pytest_mergegate.history.calibration.observations import SAME, Observation
from pytest_mergegate.verdict import losses
from pytest_mergegate.verdict.evidence import Evidence, compare
from pytest_mergegate.verdict.past_merges import Prediction, resolve_limits

LIMIT = 10.0


def predicted(low: float, high: float, **changes: Any) -> Prediction:
    """A loss that is worse than ``low`` percent, and no worse than ``high``."""
    given: dict[str, Any] = {
        "expert": "a",
        "method": "linear",
        "loss": Value(number=-(low + high) / 2, interval=(-high, -low)),
        "source": "registry",
        "confidence": 0.95,
        "score": "disagreement",
        "merges": 40,
        "enough": True,
    }
    return Prediction(**given | changes)


def told(*predictions: Prediction, expert: str = "a", method: str = "linear") -> Evidence | None:
    case: Any = SimpleNamespace(predictions=predictions)
    return losses._predicted(
        SimpleNamespace(expert=expert, method=method, limit=LIMIT, case=case)  # type: ignore[arg-type]
    )


WITHIN, OVER, ACROSS = (1.0, 9.0), (11.0, 40.0), (5.0, 20.0)


class TestPredictedLosses:
    @pytest.mark.parametrize("ends", [WITHIN, OVER, ACROSS])
    @pytest.mark.parametrize("other", [False, True])
    @pytest.mark.parametrize("enough", [False, True])
    def test_what_they_decide(self, ends: tuple[float, float], other: bool, enough: bool) -> None:
        """A pass rests on merges that are like this one and scores on as many inputs; a failure
        on merges that are like it."""
        found = told(predicted(*ends, other=other, enough=enough))
        assert found is not None
        status = compare(found, LIMIT, "point")
        if ends == WITHIN:
            assert status == ("pass" if enough and not other else "inconclusive")
        elif ends == OVER:
            assert status == ("inconclusive" if other else "fail")
        else:
            assert status == "inconclusive"

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"enough": False}, "more inputs than were compared here"),
            ({"other": True}, "of another base, metric or reading"),
            ({"source": "beds", "enough": False}, "not this team's models"),
        ],
    )
    def test_why_one_passes_nothing(self, changes: dict[str, Any], says: str) -> None:
        found = told(predicted(*WITHIN, **changes))
        assert found is not None
        assert says in found.detail

    def test_nothing_is_doubted_that_would_not_pass(self) -> None:
        found = told(predicted(*OVER, enough=False))
        assert found is not None
        assert "more inputs" not in found.detail

    def test_the_first_that_may_judge_is_heard(self) -> None:
        certificate = predicted(*OVER, source="certificate")
        unknown = replace(predicted(*OVER), loss=Value.missing("lost"))
        found = told(certificate, unknown, predicted(*WITHIN), predicted(*OVER))
        assert found is not None
        assert compare(found, LIMIT, "point") == "pass"

    @pytest.mark.parametrize("asked", [{"expert": "b"}, {"method": "ties"}])
    def test_those_of_others_are_not_heard(self, asked: dict[str, str]) -> None:
        assert told(predicted(*WITHIN), **asked) is None

    def test_the_paper_decides_nothing(self) -> None:
        assert told(predicted(*WITHIN, source="paper")) is None


BASE = "the base"


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    experts = {name: {"path": name, "metric": "exact_match"} for name in ("a", "b")}
    budget = {"max_disagreement": "auto@0.1"}
    return gate_from({"base": "base", "experts": experts, "budget": budget}, root=tmp_path)


def collapses(gate: Gate, count: int, score: float, **changes: Any) -> list[Observation]:
    """Collapsed experts of as many pools, whose disagreement was ``score`` or more."""
    given = {
        "base": BASE,
        "metric": "exact_match",
        "reading": gate.spec.reading_of("a"),
        "shared": 0,
        "compared": 64,
    } | changes
    return [
        observed(f"pool {k}/linear", "x", score + 0.001 * k, -60.0, **given) for k in range(count)
    ]


def limit(gate: Gate, past: list[Observation]) -> tuple[float | None, int]:
    pool: Any = SimpleNamespace(base=SimpleNamespace(fingerprint=BASE))
    resolved, found = resolve_limits(gate, pool, past)
    auto = found["max_disagreement"]
    if auto.limit is not None:
        assert resolved.spec.effective_budget.max_disagreement == auto.limit
    return auto.limit, auto.inputs


class TestAutomaticLimits:
    def test_stand_below_what_collapsed(self, gate: Gate) -> None:
        found, inputs = limit(gate, collapses(gate, 9, 0.4))
        assert found is not None
        assert found < 0.4
        np.testing.assert_allclose(found, 0.4 * (1 - SAME), rtol=1e-12)
        assert inputs == 64

    def test_take_as_many_pools_as_the_rate_asks_for(self, gate: Gate) -> None:
        assert limit(gate, collapses(gate, 8, 0.4))[0] is None

    @pytest.mark.parametrize(
        "other", [{"base": "another"}, {"metric": "rouge_l"}, {"reading": None}, {"shared": 3}]
    )
    def test_come_of_merges_like_this_one_alone(self, gate: Gate, other: dict[str, Any]) -> None:
        assert limit(gate, collapses(gate, 40, 0.4, **other))[0] is None
        mixed = collapses(gate, 9, 0.4) + collapses(gate, 40, 0.1, **other)
        np.testing.assert_allclose(limit(gate, mixed)[0], 0.4 * (1 - SAME), rtol=1e-12)

    def test_a_score_on_unknown_inputs_is_on_more_than_anybody_has(self, gate: Gate) -> None:
        past = collapses(gate, 9, 0.4)
        assert limit(gate, [*past[:-1], replace(past[-1], compared=None)])[1] > 10**9

    def test_of_two_metrics_the_strictest_holds(self, tmp_path: Path) -> None:
        experts = {
            "a": {"path": "a", "metric": "exact_match"},
            "b": {"path": "b", "metric": "rouge_l"},
        }
        budget = {"max_disagreement": "auto@0.1"}
        gate = gate_from({"base": "base", "experts": experts, "budget": budget}, root=tmp_path)
        past = collapses(gate, 9, 0.4)
        assert limit(gate, past)[0] is None  # nothing is known of the other's
        of_b = {"metric": "rouge_l", "reading": gate.spec.reading_of("b")}
        for other in ("exact", "ours:apart"):
            past += collapses(gate, 9, 0.1, **of_b, compared_by=other)
            assert limit(gate, past)[0] is None  # nor by what was compared otherwise
        past += collapses(gate, 9, 0.2, **of_b, compared_by="rouge_l")
        np.testing.assert_allclose(limit(gate, past)[0], 0.2 * (1 - SAME), rtol=1e-12)

    def test_collapses_without_a_score_tell_none_apart(self, gate: Gate) -> None:
        assert limit(gate, collapses(gate, 9, 0.0, scores={"disagreement": 0.0}))[0] is None
