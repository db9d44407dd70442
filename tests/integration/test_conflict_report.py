"""What the conflict stage leaves in the report: where the weights conflict, and how surely."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conflicts import dense_of
from pools import Adapter, write_pool

from pytest_mergegate import assess
from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.metrics import parameter_conflicts
from pytest_mergegate.pool import experts
from pytest_mergegate.pool.pool import read_pool
from pytest_mergegate.stages.conflict import layer_of, run_conflict

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.report.types import Report

RATIO = "max_conflicting_magnitude_ratio"


@pytest.fixture
def gate(tmp_path: Path, seed: int) -> Path:
    """Two experts on every linear layer, one on the queries alone."""
    few = Adapter(lora={"target_modules": ["q_proj"]})
    return write_pool(tmp_path, seed, {"a": Adapter(), "b": Adapter(), "c": few})


def report_of(gate: Path, conflict: Any = "exact", **settings: Any) -> Report:
    return assess(
        {
            "base": "base",
            "experts": {name: f"adapters/{name}" for name in "abc"},
            "conflict": conflict,
            **settings,
        },
        root=gate.parent,
        stage="conflict",
    )


def test_layers_and_tensors(gate: Path) -> None:
    report = report_of(gate, budget={RATIO: 1.0})
    assert report.status == "pass", report.findings
    assert report.conflicts is not None
    assert (report.conflicts.mode, report.conflicts.rows) == ("exact", None)
    pool, _ = read_pool(gate_from(gate, root=gate.parent, budget={}))
    assert pool is not None
    vectors = TaskVectors(pool)
    dense = dense_of(vectors)

    def conflicts_in(a: str, b: str, parameters: list[str]) -> Any:
        sides = []
        for name in (a, b):
            own = [
                dense(name, p) if vectors.delta(name, p) is not None else None for p in parameters
            ]
            sides.append(own)
        shapes = [x.shape if x is not None else y.shape for x, y in zip(*sides, strict=True)]
        filled = [
            [np.zeros(s) if x is None else x for x, s in zip(side, shapes, strict=True)]
            for side in sides
        ]
        return parameter_conflicts(*filled)

    layers = report.conflicts.layers
    assert list(layers) == [f"model.layers.{k}" for k in range(len(layers))]
    for pair in report.pairs:
        changed = vectors.parameters(pair.a, pair.b)
        for k, layer in enumerate(layers):
            expected = conflicts_in(pair.a, pair.b, [p for p in changed if layer_of(p) == layer])
            for ratio, found in pair.layers.items():
                assert found[k] == pytest.approx(getattr(expected, ratio), rel=1e-5, abs=1e-6)
    for tensor in report.conflicts.tensors:
        pairs = [p for p in report.pairs if tensor.name in vectors.parameters(p.a, p.b)]
        each = {(p.a, p.b): conflicts_in(p.a, p.b, [tensor.name]) for p in pairs}
        ratios = {pair: found.conflicting_magnitude_ratio for pair, found in each.items()}
        mean = sum(ratios.values()) / len(ratios)
        assert tensor.conflicting_magnitude_ratio == pytest.approx(mean, rel=1e-5)
        assert tensor.worst_pair is not None
        assert ratios[tensor.worst_pair] == pytest.approx(max(ratios.values()), rel=1e-5)


def test_a_failure_names_the_layer(gate: Path) -> None:
    report = report_of(gate, budget={RATIO: 0.01})
    assert report.status == "fail"
    assert all(" in model.layers." in verdict.message for verdict in report.verdicts)


def test_a_sample_says_how_sure_it_is(gate: Path) -> None:
    exact = report_of(gate, budget={RATIO: 1.0})
    sampled = report_of(gate, {"mode": "sampled", "rows": 8}, budget={RATIO: 1.0})
    assert sampled.conflicts is not None
    assert (sampled.conflicts.mode, sampled.conflicts.rows) == ("sampled", 8)
    assert sampled.settings["conflict"] == {"mode": "sampled", "rows": 8, "seed": 0}
    for pair, known in zip(sampled.pairs, exact.pairs, strict=True):
        error = pair.conflicting_magnitude_ratio_standard_error
        assert error is not None
        assert 0 < error < 0.1
        assert pair.cosine == pytest.approx(known.cosine, rel=1e-9)
        assert pair.cosine_standard_error == 0
        assert known.conflicting_magnitude_ratio_standard_error is None
    assert "standard_error" not in exact.to_json()
    assert {verdict.basis for verdict in sampled.verdicts} == {"sampled"}


@pytest.mark.parametrize(("judged", "status"), [("point", "pass"), ("bound", "fail")])
def test_a_limit_within_the_interval(gate: Path, judged: str, status: str) -> None:
    conflict = {"mode": "sampled", "rows": 8}
    first = report_of(gate, conflict, budget={RATIO: 1.0})
    worst = max(first.verdicts, key=lambda verdict: verdict.value or 0.0)
    assert worst.interval is not None
    assert worst.interval[1] is not None
    limit = (worst.value + worst.interval[1]) / 2
    report = report_of(gate, conflict, budget={RATIO: limit}, judge=judged)
    assert report.status == status
    codes = {finding.code for finding in report.findings if finding.severity == "warning"}
    assert ("MG304" in codes) is (status == "pass")


def test_ctrl_c_stops_at_once(gate: Path) -> None:
    """And leaves no thread at work."""
    pool, _ = read_pool(gate_from(gate, root=gate.parent, budget={}))
    assert pool is not None
    seen: list[float] = []

    def stop(fraction: float) -> None:
        seen.append(fraction)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_conflict(pool, dense_of(TaskVectors(pool)), stop)
    assert len(seen) == 1


def test_the_report_reads_back(gate: Path) -> None:
    report = report_of(gate, "sampled", budget={RATIO: 1.0})
    assert type(report).from_json(report.to_json()) == report
    assert json.loads(report.to_json())["conflicts"]["mode"] == "sampled"


def test_a_file_that_cannot_be_hashed(gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are there, but nobody knows of what: an error with a report, and no verdict."""

    def broken(*_: object) -> str:
        raise PoolError("adapter_model.safetensors cannot be read", fix="check the disk")

    monkeypatch.setattr(experts, "fingerprint", broken)
    report = report_of(gate, budget={RATIO: 1.0})
    assert report.status == "error"
    assert not report.verdicts
    assert any("cannot be read" in finding.message for finding in report.findings)
