"""A record tells what its source has, and of a number all that its fields have room for."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from pytest_mergegate.common.records import Interval, Number, Record, value_of
from pytest_mergegate.common.values import Value
from pytest_mergegate.report.merge_records import MergeRecord
from pytest_mergegate.report.types import ChangeRecord, PredictionRecord


class Made(Record):
    """A record with all that can be told of one number, and nothing of the other."""

    name: str
    size: Number | None = None
    size_reason: str | None = None
    size_standard_error: Number | None = None
    size_interval: Interval | None = None
    size_infinite: bool = False
    bare: Number | None = None


def source(size: Value | None, bare: Value | None = None) -> SimpleNamespace:
    return SimpleNamespace(name="a", size=size, bare=bare, unasked=object())


def test_tells_all_of_a_number() -> None:
    value = Value(number=2.0, interval=(1.0, math.inf), standard_error=0.5)
    assert Made.of(source(value, value)).model_dump() == {
        "name": "a",
        "size": 2.0,
        "size_standard_error": 0.5,
        "size_interval": (1.0, None),
        "size_infinite": False,
        "bare": 2.0,
    }


@pytest.mark.parametrize(
    ("value", "reason", "infinite"),
    [
        (Value.missing("no_targets"), "no_targets", False),
        (Value(number=math.inf), "infinite", True),
        (None, "stage_not_run", False),
    ],
)
def test_says_why_there_is_none(value: Value | None, reason: str, infinite: bool) -> None:
    record = Made.of(source(value))
    assert (record.size, record.size_reason, record.size_infinite) == (None, reason, infinite)


def test_what_is_given_is_not_asked_of_the_source() -> None:
    class Dear:
        """A source of which one field costs more than is wanted."""

        size = None

        @property
        def name(self) -> str:
            raise AssertionError("it was asked")

    assert Made.of(Dear(), name="b", size_reason="why").size_reason == "why"


def test_a_field_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="nmae"):
        Made.of(source(None), nmae="b")


@pytest.mark.parametrize(
    "value",
    [
        Value(number=2.0, interval=(-math.inf, math.inf), standard_error=0.5),
        Value(number=math.inf),
        Value.missing("no_targets"),
    ],
)
def test_a_value_comes_back_as_it_was(value: Value) -> None:
    assert value_of(Made.of(source(value)), "size") == value


def test_what_is_not_told_is_of_a_stage_that_did_not_run() -> None:
    nothing = Value.missing("stage_not_run")
    assert [value_of(record, "size") for record in (None, Made.of(source(None)))] == [nothing] * 2


def test_another_unit_turns_the_interval_round() -> None:
    loss = Value(number=-4.0, interval=(-math.inf, 1.0), standard_error=0.5).times(-1)
    assert loss == Value(number=4.0, interval=(-1.0, math.inf), standard_error=0.5)
    assert str(Value(number=0.0).times(-1).number) == "0.0"


def test_losses_with_the_sign_that_people_expect() -> None:
    """Eq. 1's is negative where the merge is worse; what reads a report need not know that."""
    told = {"expert": "a", "method": "linear", "source": "registry"}
    assert PredictionRecord(loss=-12.5, **told).loss_percent == 12.5
    assert PredictionRecord(loss=None, loss_reason="few", **told).loss_percent is None
    moved = {"expert": "a", "method": "linear", "before": -5.0, "after": 0.0}
    change = ChangeRecord(quantity="loss", **moved)
    assert (change.loss_percent_before, change.loss_percent_after) == (5.0, 0.0)
    assert math.copysign(1, change.loss_percent_after or 0.0) == 1
    assert ChangeRecord(quantity="mds", **moved).loss_percent_before is None
    again = ChangeRecord.model_validate_json(change.model_dump_json())
    assert again == change
    merge = {"method": "linear", "parameters": {}, "weights": {}, "fidelity": None, "digest": "x"}
    whole = MergeRecord(experts=(), worst_loss=-40.0, mean_loss=-10.0, **merge)
    assert (whole.worst_loss_percent, whole.mean_loss_percent) == (40.0, 10.0)
