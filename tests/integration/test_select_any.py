"""Any of a gate's methods may do: the first that passes ends the search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pools import read_gate, write_gate
from talkers import reworded, sentences, write_talkers

from pytest_mergegate import assess

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.report.types import Report

pytestmark = pytest.mark.slow

METHODS = [{"method": "ties", "density": 0.5}, "task_arithmetic", "linear"]


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    said = sentences(seed)
    spoken = {"plain": said, "reworded": reworded(said, 6, seed)}
    gate = write_talkers(tmp_path_factory.mktemp("talkers"), seed, spoken)
    settings = read_gate(gate)
    for expert in settings["experts"].values():
        expert["compare"] = "rouge_l"
    settings["merge"]["methods"] = METHODS
    return write_gate(gate, settings)


def gated(gate: Path, limit: float, *, select: str = "any", **how: Any) -> Report:
    settings = read_gate(gate)
    settings["budget"] = {"max_disagreement": limit}
    settings["merge"]["select"] = select
    return assess(write_gate(gate.with_name("any.mergegate.yaml"), settings), cache=False, **how)


def labels(report: Report) -> list[str]:
    return [merge.method for merge in report.merges]


def test_the_first_that_passes_ends_the_search(talkers: Path) -> None:
    report = gated(talkers, 0.6)
    assert report.status == "pass"
    tried, listed = labels(report), labels_of(report)
    assert tried == [label for label in listed if label in tried]
    assert [*report.untried] == [label for label in listed if label not in tried]
    worst = {
        label: max(f.kl for f in report.forecasts if f.method == label and f.kl is not None)
        for label in listed
    }
    order = sorted(tried, key=lambda label: worst[label])
    assert report.judged_method == order[-1]
    assert all(worst[label] >= worst[order[-1]] for label in report.untried)
    every = gated(talkers, 0.6, all_methods=True)
    passing = {m.method for m in every.merges if max(e.disagreement for e in m.experts) <= 0.6}
    assert passing.intersection(tried) == {order[-1]}


def labels_of(report: Report) -> list[str]:
    return [*dict.fromkeys(forecast.method for forecast in report.forecasts)]


def test_all_are_tried_where_that_is_asked_for(talkers: Path) -> None:
    few, every = gated(talkers, 0.6), gated(talkers, 0.6, all_methods=True)
    assert every.status == "pass"
    assert labels(every) == labels_of(every)
    assert len(every.merges) == 3
    assert every.untried == ()
    assert few.merges == tuple(m for m in every.merges if m.method in labels(few))


def test_all_are_tried_where_none_passes_or_all_must(talkers: Path) -> None:
    none = gated(talkers, 0.001)
    assert none.status == "fail"
    assert labels(none) == labels_of(none)
    assert none.untried == ()
    assert len(gated(talkers, 0.6, select="all").merges) == 3
