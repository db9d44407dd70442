"""What counts as an observation, and once."""

from __future__ import annotations

import math

import pytest
from unit.history.registry.making import made

from pytest_mergegate.history.calibration.observations import COLLAPSE, is_collapse, observations


def test_experts_without_a_loss_are_left_out() -> None:
    line = made("abc", losses={"a": -50.0, "b": None})
    assert [(o.name, o.loss) for o in observations([line])] == [("a", -50.0), ("c", 0.0)]


def test_a_merge_measured_again_counts_once_as_found_last() -> None:
    first = made("ab", losses={"a": -10.0}, versions={"torch": "1"}, created="2026-01-01")
    again = made("ab", losses={"a": -20.0}, versions={"torch": "2"}, created="2026-02-01")
    assert first.id != again.id
    for lines in ([first, again], [again, first]):
        found = observations(lines)
        assert [one.loss for one in found] == [-20.0, 0.0]
        assert len({one.merge for one in found}) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": {"a": 0.9, "b": 0.1}},
        {"base": "other"},
        {"method": "ties density=0.5"},
        {"parameters": {"density": 0.5}},
        {"settings": {"seed": 1}},
    ],
)
def test_another_merge_is_another(changes: dict[str, object]) -> None:
    found = observations([made("ab"), made("ab", **changes)])  # type: ignore[arg-type]
    assert len({one.merge for one in found}) == 2


def test_scores_are_turned_so_that_more_is_riskier_and_may_be_infinite() -> None:
    scores = {"a": {"cosine": 0.7, "kl": 2.0}}
    one, _ = observations([made("ab", scores=scores, infinite=("mds",))], bed="bed")
    assert (one.risk("cosine"), one.risk("kl"), one.risk("mds")) == (-0.7, 2.0, math.inf)
    assert "norm" not in one.scores
    assert one.bed == "bed"


def test_a_collapse_is_more_than_round_off_below_the_line() -> None:
    assert not is_collapse(COLLAPSE)
    assert not is_collapse(COLLAPSE - 1e-12)
    assert is_collapse(COLLAPSE - 0.01)
    assert not is_collapse(5.0)
