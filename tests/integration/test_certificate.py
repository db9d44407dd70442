"""How many inputs certify a merge, and how surely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pools import read_gate, write_gate, write_pool

from pytest_mergegate import assess, metrics

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.report.merge_records import MergedExpertRecord

METHOD = {"method": "task_arithmetic", "weight": 0.9}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """Thirty inputs of each of three experts."""
    return write_pool(tmp_path_factory.mktemp("many"), seed, count=30)


def _experts(pool: Path, limit: float, **certificate: Any) -> tuple[MergedExpertRecord, ...]:
    gate = read_gate(pool)
    gate["probes"] = {"per_task": 3, "max_answer_tokens": 4}
    gate["merge"] = {"methods": [METHOD]}
    gate["budget"] = {"max_disagreement": limit}
    gate["certificate"] = certificate
    path = write_gate(pool.with_name("certificate.mergegate.yaml"), gate)
    return assess(path, cache=False).merges[0].experts


def test_stops_as_soon_as_the_verdict_is_certain(pool: Path) -> None:
    level = 1 - 0.05 / 4  # 4, 8, 16 or 30 inputs: four looks
    few = _experts(pool, 0.5, per_task=4)
    found = _experts(pool, 0.5, per_task=4, max_per_task=30)
    for expert in found:
        assert expert.inputs in {4, 8, 16, 30}
        plain = next(
            e
            for e in _experts(pool, 0.5, per_task=expert.inputs, confidence=level)
            if e.name == expert.name
        )
        assert (plain.disagreement, plain.cut) == (expert.disagreement, expert.cut)
        assert plain.disagreement_interval == expert.disagreement_interval
        assert plain.disagreement_upper == expert.disagreement_upper
        assert plain.kl == pytest.approx(expert.kl, rel=1e-5)
        assert plain.distortion == pytest.approx(expert.distortion, rel=1e-5)
        low, high = expert.disagreement_interval or (None, None)
        assert low is not None
        assert high is not None
        assert expert.inputs == 30 or not low <= 0.5 < high
    assert [e.inputs for e in few] == [4, 4, 4]


def test_certain_from_the_start_draws_no_more(pool: Path) -> None:
    assert {e.inputs for e in _experts(pool, 1.0, per_task=4, max_per_task=30)} == {4}


def test_goes_to_the_end_where_nothing_decides(pool: Path) -> None:
    """A limit at the rate itself is inside every interval."""
    rate = {e.name: e.disagreement for e in _experts(pool, 0.5, per_task=30)}
    for name, limit in rate.items():
        found = next(
            e for e in _experts(pool, limit, per_task=15, max_per_task=30) if e.name == name
        )
        half = next(e for e in _experts(pool, limit, per_task=15) if e.name == name)
        low, high = metrics.disagreement_interval(
            round(half.disagreement * 15), 15, confidence=0.975
        )
        if half.cut == 0:
            assert found.inputs == (30 if low <= limit < high else 15)


def test_a_looser_budget_is_not_served_what_a_tighter_one_drew(pool: Path, tmp_path: Path) -> None:
    gate = read_gate(pool)
    gate["probes"] = {"per_task": 3, "max_answer_tokens": 4}
    gate["certificate"] = {"per_task": 4, "max_per_task": 30}
    counts = []
    for limit in (0.5, 1.0):
        gate["budget"] = {"max_disagreement": limit}
        path = write_gate(pool.with_name("kept.mergegate.yaml"), gate)
        report = assess(path, cache=tmp_path)
        counts.append([e.inputs for e in report.merges[0].experts])
    assert counts[1] == [4, 4, 4]
