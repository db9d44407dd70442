"""What tests of a team's own read of a report."""

from __future__ import annotations

import pickle

import pytest
from unit.report.formats.made import NAMES, report

from pytest_mergegate.report.types import Report


def test_one_expert_by_name() -> None:
    made = report()
    found = made["shout"]
    assert (found.name, found.status, found.disagreement) == ("shout", "fail", 1.0)
    assert found.loss == 100.0  # positive is worse, where the record has Eq. 1
    assert (found.score_expert, found.score_merged) == (1.0, 0.0)
    assert made["rotate"].loss == pytest.approx(3.0)
    assert made.failed == ("shout",)
    assert report(NAMES, failing=()).failed == ()


def test_what_was_not_computed_is_none() -> None:
    bare = report(merges=(), verdicts=())
    assert bare["rotate"].disagreement is None
    assert bare["rotate"].loss is None
    assert bare["rotate"].status is None


def test_names_that_are_not_there_say_which_are() -> None:
    made = report()
    with pytest.raises(KeyError, match=r"no expert 'reverze'; there are rotate, first_last"):
        made["reverze"]
    with pytest.raises(AttributeError, match=r"Report has no 'verdict'.*verdicts"):
        made.__getattr__("verdict")
    with pytest.raises(AttributeError, match=r"result has no 'los'.*loss"):
        made["shout"].__getattr__("los")
    assert not hasattr(made, "anything")
    assert Report.from_json(made.to_json()) == made
    assert pickle.loads(pickle.dumps(made)) == made
