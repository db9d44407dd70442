"""Probes are drawn on while a verdict's interval straddles its limit, and no further."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pools import read_gate, write_gate

from pytest_mergegate import assess
from pytest_mergegate.gate.gatefile import GateFileError, load_gate

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.report.types import Report


def _gate(pool: Path, limit: float, **probes: Any) -> Path:
    gate = {**read_gate(pool), "budget": {"max_mds": limit}}
    gate["probes"] = {"per_task": 3, "max_answer_tokens": 4, **probes}
    return write_gate(pool.with_name("sequential.mergegate.yaml"), gate)


def _drawn(report: Report) -> int:
    return int(report.settings["probes"]["drawn_per_task"])


def _straddled(report: Report) -> float:
    """A limit inside the interval of some expert's MDS."""
    for expert in report.experts:
        assert expert.mds_interval is not None
        low, high = expert.mds_interval
        if expert.mds is not None and low is not None and low < expert.mds:
            return (low + expert.mds) / 2 if high is None else (low + high) / 2
    pytest.skip("this pool's scores have intervals without width")


def test_draws_up_to_the_cap_while_undecided(pool_copy: Path, tmp_path: Path) -> None:
    few = assess(_gate(pool_copy, 1e9), cache=tmp_path)
    limit = _straddled(few)
    assert _drawn(assess(_gate(pool_copy, limit), cache=tmp_path)) == 3
    more = assess(_gate(pool_copy, limit, max_per_task=7), cache=tmp_path)
    assert _drawn(more) in {6, 7}
    plain = assess(_gate(pool_copy, limit, per_task=_drawn(more)), cache=False)
    for a, b in zip(more.experts, plain.experts, strict=True):
        assert a.mds == pytest.approx(b.mds, rel=1e-5)


def test_draws_no_more_once_decided(pool_copy: Path, tmp_path: Path) -> None:
    assert _drawn(assess(_gate(pool_copy, 1e9, max_per_task=8), cache=tmp_path)) <= 8
    infinite = assess(_gate(pool_copy, 0.5, max_per_task=8), cache=tmp_path)
    assert _drawn(infinite) == 3  # no MDS is below 1
    assert infinite.status == "fail"


def test_too_few_probes_for_an_interval_draw_on(pool_copy: Path, tmp_path: Path) -> None:
    """One probe, or two, leave it open on which side of a limit an MDS is."""
    alone = assess(_gate(pool_copy, 1e9, per_task=1), cache=tmp_path)
    assert [expert.mds_interval for expert in alone.experts] == [None] * 3
    assert all(expert.mds is not None or expert.mds_infinite for expert in alone.experts)
    assert _drawn(assess(_gate(pool_copy, 1e9, per_task=1, max_per_task=4), cache=tmp_path)) == 4


def test_a_cap_below_the_first_draw_is_refused(pool_copy: Path) -> None:
    with pytest.raises(GateFileError, match="max_per_task 1 is less than per_task 3"):
        load_gate(_gate(pool_copy, 3.0, max_per_task=1))
