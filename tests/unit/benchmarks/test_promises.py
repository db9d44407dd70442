"""The simulation of what a gate promises: it finds promises kept, and tells where one is not."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.distances import Distances
from pytest_mergegate.gate.spec import GateSpec
from pytest_mergegate.history.calibration import performance as thresholds
from pytest_mergegate.metrics import gain_kept, miss_controlled_threshold
from pytest_mergegate.verdict import judge
from pytest_mergegate.verdict.evidence import Evidence

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import promises
from card.promises import promises_part
from promised import gains
from promised.rows import Row, Statement, Table, rows_above


def test_promises_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert promises.main(["--quick"]) == 0
    told = capsys.readouterr().out
    assert "seed 0" in told
    assert "with a nominal, 0 above it" in told


def test_every_setting_is_drawn_by_a_label_of_its_own() -> None:
    every = [(s.statement.name, s.label) for s in promises.scenarios()]
    assert len(set(every)) == len(every)
    assert {name for name, _ in every} <= {s.name for p in promises.PARTS for s in p.STATEMENTS}


def _point(found: Evidence, mode: str) -> float | None:
    return found.value.number


def _uncut(differs: Any, cut: Any) -> Distances:
    seen = tuple(map(float, differs))
    return Distances(comparison="exact", seen=seen, least=seen, most=seen)


def _without_pools(scores: Any, rate: float, *, pools: Any) -> float:
    return miss_controlled_threshold(scores, rate)


def _bare(found: Distances, confidence: float) -> Value:
    return Value(number=found.mean, interval=(found.mean, found.mean))


def _bare_gain(*scores: Any) -> tuple[float, float]:
    kept = gain_kept(*(float(each.sum()) for each in scores))
    return kept, kept


CONFIDENCE = property(lambda spec: spec.certificate.confidence)
NEVER = property(lambda spec: 0.02)
PER_METHOD = property(lambda spec: spec.loss_level)


@pytest.mark.parametrize(
    ("statement", "of", "name", "sabotage"),
    [
        pytest.param("certificate", GateSpec, "level", CONFIDENCE, id="methods and looks"),
        pytest.param("measured", GateSpec, "loss_level", CONFIDENCE, id="methods, measured"),
        pytest.param("few-inputs", Evidence, "passing", _point, id="the point of few inputs"),
        pytest.param("bound", Evidence, "passing", _point, id="the point for the bound"),
        pytest.param("measured", Evidence, "passing", _point, id="the point of a loss"),
        pytest.param("cut", Distances, "exact", _uncut, id="cut answers are the same"),
        pytest.param("cut-counted", Evidence, "passing", _point, id="cut answers are not counted"),
        pytest.param("distance", Distances, "disagreement", _bare, id="a mean distance, bare"),
        pytest.param("gain-kept", gains, "gain_kept_interval", _bare_gain, id="a gain kept, bare"),
        pytest.param("min-gain-kept", Evidence, "passing", _point, id="the point of a gain kept"),
        pytest.param("min-gain-kept", GateSpec, "loss_level", NEVER, id="a gain kept at no level"),
        pytest.param("base", judge, "why_vacuous", lambda *_: "", id="the base is not looked at"),
        pytest.param(
            "auto", thresholds, "miss_controlled_threshold", _without_pools, id="no pools"
        ),
    ],
)
def test_a_promise_that_is_broken_is_told(
    statement: str,
    of: Any,
    name: str,
    sabotage: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(of, name, sabotage)
    assert promises.main(["--quick", "--only", statement]) == 1
    told = capsys.readouterr().out.rsplit("\n\n", 1)[1]
    texts = {s.name: s.text for part in promises.PARTS for s in part.STATEMENTS}
    assert f"ABOVE ITS NOMINAL: {texts[statement]}" in told


@pytest.mark.parametrize(
    ("broken", "rows", "above"),
    [
        pytest.param(0, 1, False, id="never"),
        pytest.param(50, 1, False, id="at the nominal"),
        pytest.param(80, 1, True, id="far over"),
        pytest.param(66, 1, True, id="over, alone"),
        pytest.param(66, 400, False, id="over, one of many"),
    ],
)
def test_chance_raises_no_alarm(broken: int, rows: int, above: bool) -> None:
    row = Row(statement="one", setting="", nominal=0.05, broken=broken, gates=1000)
    others = [replace(row, broken=0)] * (rows - 1)
    assert rows_above([row, *others]) == ([row] if above else [])
    assert rows_above([replace(row, nominal=None), *others]) == []


def test_one_breach_of_what_never_happens_is_an_alarm() -> None:
    row = Row(statement="one", setting="", nominal=0.0, broken=1, gates=10_000)
    assert rows_above([row] * 400) == [row] * 400


@pytest.fixture
def table() -> Table:
    statements = (Statement(name="one", text="It fails."), Statement(name="two", text="It breaks."))
    rows = (
        Row(statement="one", setting="here", nominal=0.05, broken=400, gates=1000),
        Row(statement="one", setting="there", nominal=0.05, broken=1, gates=1000),
        Row(statement="two", setting="x | y", nominal=0.0, broken=0, gates=1000),
    )
    return Table(seed=3, gates=1000, statements=statements, rows=rows)


def test_a_table_is_kept_as_it_was(table: Table, tmp_path: Path) -> None:
    table.write(tmp_path / "table.json")
    assert Table.read(tmp_path / "table.json") == table


def test_the_card_hides_no_broken_promise(table: Table, tmp_path: Path) -> None:
    table.write(tmp_path / "table.json")
    page = promises_part(tmp_path / "table.json")
    assert "| It fails. | 2 | **1** | 5.0% | 40.00% (36.95% to 43.11%) | here |" in page
    assert "- here: nominal 5.0%, actual 40.00% (36.95% to 43.11%) (`one`)" in page
    assert "`two`: never broken (settings: 1)." in page
    kept = replace(table, rows=table.rows[1:])
    kept.write(tmp_path / "table.json")
    assert "No setting is above its nominal." in promises_part(tmp_path / "table.json")


@pytest.mark.parametrize("statement", ["min-score", "few-inputs"])
def test_the_recorded_table_is_what_the_gate_does(statement: str) -> None:
    """Word for word and count for count, where that takes no more than seconds."""
    kept = Table.read(promises.RECORD)
    chosen = promises.scenarios(quick=True, only=[statement])
    again = promises.simulated(chosen, seed=kept.seed, gates=kept.gates)
    assert set(again.rows) <= set(kept.rows), "run: python benchmarks/promises.py --write"


def test_a_part_of_the_table_is_not_recorded() -> None:
    with pytest.raises(SystemExit):
        promises.main(["--quick", "--write"])
