"""Forecasts of a merge from the sum of the task vectors, and gates that stop at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pools import read_gate, write_gate

from pytest_mergegate import assess

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.report.merge_records import ForecastRecord
    from pytest_mergegate.report.types import Report

TIES = {"method": "ties", "density": 0.5}


def _gate(pool: Path, limit: float, *methods: Any, **merge: Any) -> Path:
    gate = read_gate(pool)
    gate["budget"] = {"max_disagreement": limit}
    gate["merge"] = {"methods": list(methods), **merge}
    return write_gate(pool.with_name("surrogate.mergegate.yaml"), gate)


def _surrogates(report: Report) -> dict[tuple[str, str], ForecastRecord]:
    return {(f.method, f.expert): f for f in report.forecasts if f.kind == "surrogate"}


def test_sum_is_its_own_forecast(tiny_pool: Path) -> None:
    """A linear merge is run once, and the forecast is what came of it."""
    report = assess(_gate(tiny_pool, 0.5, "linear", "task_arithmetic"), cache=False)
    forecasts = _surrogates(report)
    for merge in report.merges:
        for expert in merge.experts:
            found = forecasts[merge.method, expert.name]
            assert found.exact
            assert found.disagreement == expert.disagreement
            assert found.kl == expert.kl


def test_forecast_of_an_earlier_run_serves_the_merge(tiny_pool: Path, tmp_path: Path) -> None:
    gate = _gate(tiny_pool, 0.5, "linear")
    stopped = assess(gate, stage="hidden", cache=tmp_path)
    whole = assess(gate, cache=tmp_path)
    forecast = _surrogates(stopped)
    for expert in whole.merges[0].experts:
        assert expert.kl == forecast["linear", expert.name].kl
    for expert, other in zip(
        assess(gate, cache=False).merges[0].experts, whole.merges[0].experts, strict=True
    ):
        assert expert.disagreement == other.disagreement
        assert expert.kl == pytest.approx(other.kl, rel=1e-5)
        assert expert.distortion == pytest.approx(other.distortion, rel=1e-5)


def test_others_are_forecast_on_request(tiny_pool: Path) -> None:
    auto = assess(_gate(tiny_pool, 0.5, "linear", TIES))
    always = assess(_gate(tiny_pool, 0.5, "linear", TIES, surrogate="always"))
    assert {method for method, _ in _surrogates(auto)} == {"linear"}
    assert {method for method, _ in _surrogates(always)} == {"linear", "ties density=0.5"}
    assert auto.merges == always.merges


@pytest.mark.parametrize(("limit", "status"), [(1.0, "pass"), (0.0, "fail")])
@pytest.mark.usefixtures("any_base")
def test_gate_that_stops_there_is_judged_on_it(tiny_pool: Path, limit: float, status: str) -> None:
    report = assess(_gate(tiny_pool, limit, TIES), stage="hidden")
    assert report.status == status
    assert not report.merges
    assert {v.basis for v in report.verdicts} == {"predicted"}
    assert all("no merge made" in v.message for v in report.verdicts)
    warned = [f for f in report.findings if f.code == "MG305"]
    assert [f.severity for f in warned] == ["warning"] * (status == "pass")


def test_shallower_stage_leaves_it_undecided(tiny_pool: Path) -> None:
    report = assess(_gate(tiny_pool, 1.0, "linear"), stage="conflict")
    assert report.status == "inconclusive"


def test_a_loss_is_not_judged_on_it(tiny_pool: Path) -> None:
    gate = read_gate(tiny_pool) | {"budget": {"max_loss": 100}}
    path = write_gate(tiny_pool.with_name("loss.mergegate.yaml"), gate)
    report = assess(path, stage="hidden")
    assert _surrogates(report)
    assert report.status == "inconclusive"


def test_budget_on_the_states_alone_runs_no_forecast(tiny_pool: Path) -> None:
    gate = read_gate(tiny_pool) | {"budget": {"max_mds": 100}}
    report = assess(write_gate(tiny_pool.with_name("mds.mergegate.yaml"), gate))
    assert not _surrogates(report)


@pytest.mark.parametrize(("select", "status"), [("any", "pass"), ("all", "inconclusive")])
@pytest.mark.usefixtures("any_base")
def test_what_no_sum_stands_for_is_undecided(tiny_pool: Path, select: str, status: str) -> None:
    """An average that scales the whole base is not predicted by a sum on an unscaled one."""
    scaling = {"method": "linear", "normalize": False, "weight": 0.6}
    gate = _gate(tiny_pool, 1.0, scaling, TIES, select=select)
    report = assess(gate, stage="hidden")
    assert report.status == status
    assert {method for method, _ in _surrogates(report)} == {"ties density=0.5"}
    assert assess(_gate(tiny_pool, 1.0, scaling), stage="hidden").status == "inconclusive"
