"""What has become worse since the baseline, on results made by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pytest_mergegate.common.values import Value
from pytest_mergegate.verdict import increases
from pytest_mergegate.verdict.increases import Earlier, increase_of_loss, moved

NAMES = ("a", "b", "c")


def number(value: float, half: float | None = None) -> Value:
    ends = None if half is None else (value - half, value + half)
    return Value(number=value, interval=ends)


def earlier(**more: Any) -> Earlier:
    """A baseline that knows all three experts."""
    return Earlier(**{"experts": frozenset(NAMES), **more})


def mds(
    limit: float, known: Earlier | None, expert: str = "a", *, hidden: object = object()
) -> Any:
    """The increase of an MDS."""
    case = SimpleNamespace(hidden=hidden, earlier=known)
    asked = SimpleNamespace(case=case, expert="a", limit=limit)
    return increases.mds_increase(asked)  # type: ignore[arg-type]


def part(scores: dict[str, Value], distances: Any = None) -> Any:
    """The pool as the baseline knew it, today."""
    distances = np.zeros((3, 3)) if distances is None else np.array(distances)
    return SimpleNamespace(names=NAMES, mds=scores, distances=distances)


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        (None, None, 0.0),
        (None, 1.0, math.inf),
        (1.0, None, math.inf),
        (2.0, 2.0, 0.0),
        (2.0, 2.0 + 1e-4, 0.0),
        (2.0, 2.5, 0.2),
        (-2.0, 2.0, 2.0),
        (0.0, 9e-7, 0.0),
        (0.0, 2e-6, 1.0),
    ],
)
def test_how_far_a_number_has_moved(
    before: float | None, after: float | None, share: float
) -> None:
    assert moved(before, after) == pytest.approx(share)


class TestDifficulty:
    def test_no_states_no_value(self) -> None:
        assert mds(0.1, earlier(), hidden=None) is None

    @pytest.mark.parametrize(
        ("known", "reason"),
        [
            (None, "baseline_not_given"),
            (Earlier(reason="another metric"), "baseline_not_comparable"),
            (Earlier(experts=frozenset({"b"})), "baseline_lacks_expert"),
            (earlier(common_reason="other probes"), "baseline_other_pool"),
        ],
    )
    def test_what_is_lacking(self, known: Earlier | None, reason: str) -> None:
        found = mds(0.1, known)
        assert found.value.number is None
        assert found.value.reason == reason

    def test_the_interval_takes_the_far_ends_of_both(self) -> None:
        now = part({"a": number(3.0, 0.5)})
        found = mds(2.0, earlier(common=now, mds={"a": number(2.0, 0.25)}))
        assert found.value.number == pytest.approx(1.0)
        assert found.value.interval == pytest.approx((0.25, 1.75))
        assert found.detail == "MDS 3, 2 before"

    def test_round_off_is_no_increase(self) -> None:
        now = part({"a": number(2.0 + 1e-4)})
        assert mds(0.0, earlier(common=now, mds={"a": number(2.0)})).value.number == 0.0

    @pytest.mark.parametrize(
        ("before", "after", "says"),
        [
            (None, number(2.0), "the baseline has no MDS of it (undefined)"),
            (Value.missing("too_few"), number(2.0), "the baseline has no MDS of it (too few)"),
            (number(2.0), number(math.inf), "its MDS is infinite"),
            (number(math.inf), number(2.0), "its MDS was infinite in the baseline"),
        ],
    )
    def test_what_has_no_difference(self, before: Value | None, after: Value, says: str) -> None:
        known = {} if before is None else {"a": before}
        found = mds(0.1, earlier(common=part({"a": after}), mds=known))
        assert found.value.number is None
        assert found.detail == says

    def test_what_is_undefined_now_stays_so(self) -> None:
        now = part({"a": Value.missing("equidistant")})
        found = mds(0.1, earlier(common=now, mds={"a": number(2.0)}))
        assert found.value.reason == "equidistant"

    def test_over_the_limit_the_distance_that_moved_most_is_named(self) -> None:
        now = part({"a": number(3.0)}, [[0, 0.5, 0.9], [0.5, 0, 1], [0.9, 1, 0]])
        before = {frozenset({"a", "b"}): 0.4, frozenset({"a", "c"}): 0.3}
        known = earlier(common=now, mds={"a": number(2.0)}, distances=before)
        assert mds(0.5, known).detail == (
            "MDS 3, 2 before; moved most: the distance to c, 0.3 to 0.9"
        )
        assert mds(1.0, known).detail == "MDS 3, 2 before"

    def test_without_distances_in_the_baseline_none_is_named(self) -> None:
        known = earlier(common=part({"a": number(3.0)}), mds={"a": number(2.0)})
        assert mds(0.5, known).detail == "MDS 3, 2 before"


class TestLoss:
    def grown(self, known: Earlier, basis: str = "measured", inputs: int = 40) -> Any:
        return increase_of_loss(known, "a", "linear", number(8.0, 2.0), basis, inputs)

    def test_is_by_basis_method_and_expert(self) -> None:
        known = earlier(
            measured={("linear", "a"): number(3.0, 1.0), ("ties", "a"): number(0.0)},
            certified={("linear", "a"): number(6.0)},
            inputs={("linear", "a"): 40},
        )
        found = self.grown(known)
        assert found.value.number == pytest.approx(5.0)
        assert found.value.interval == pytest.approx((2.0, 8.0))
        assert found.detail == "measured loss 8 %, 3 % before"
        assert found.basis == "measured"
        assert self.grown(known, "certified").value.number == pytest.approx(2.0)

    def test_on_other_inputs_certificates_do_not_compare(self) -> None:
        known = earlier(certified={("linear", "a"): number(6.0)}, inputs={("linear", "a"): 64})
        found = self.grown(known, "certified")
        assert found.value.reason == "baseline_other_inputs"
        assert found.detail == "certified on 40 inputs, and on 64 in the baseline"

    def test_on_fewer_inputs_a_measured_loss_does_not_compare(self) -> None:
        at = ("linear", "a")
        known = earlier(measured={at: number(6.0)}, scored={at: 16}, inputs={at: 40})
        found = self.grown(known)
        assert found.value.reason == "baseline_other_inputs"
        assert found.detail == "measured on 40 inputs, and on 16 in the baseline"
        assert self.grown(known, inputs=16).value.number == pytest.approx(2.0)

    def test_one_that_the_baseline_lacks(self) -> None:
        found = self.grown(earlier(certified={("linear", "a"): number(6.0)}))
        assert found.value.reason == "baseline_without_loss"
        assert found.detail == "the baseline has no measured loss of it under linear"
