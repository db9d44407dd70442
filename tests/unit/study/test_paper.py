"""The paper's tables are what its rows give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pytest_mergegate.study import paper
from pytest_mergegate.study.difficulty import fit

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/data/golden.json").read_text())
BANDS = {"GLUE": (31e-4, 35e-4), "a": (12e-4, 13e-4), "b": (282e-4, 292e-4), "c": (55e-4, 60e-4)}


def test_the_rows_are_those_of_the_golden_data() -> None:
    data = Path(__file__).parents[2] / "golden" / "data"
    for name in ("table1", "table2", "tables7-10"):
        ours = Path(str(paper.__file__)).parent / "paper_rows" / f"{name}.csv"
        assert ours.read_text() == (data / f"{name}.csv").read_text()


@pytest.mark.parametrize("size", ["3B", "7B", "14B"])
def test_table_1(size: str) -> None:
    for method, (mean, deviation) in GOLDEN["table1_qwen_recomputed_mean_popstd"][size].items():
        losses = paper.recomputed_losses(f"Qwen2.5-{size}", method)
        assert -np.mean(losses) == pytest.approx(mean, abs=1e-3)
        assert np.std(losses) == pytest.approx(deviation, abs=1e-3)


@pytest.mark.parametrize(
    ("factor", "methods", "key"),
    [
        ("method", paper.METHODS, "all5_method"),
        ("task", paper.METHODS, "all5_task"),
        ("method", ("LA", "TA", "TIES", "SLERP"), "noDARE_method"),
        ("task", ("LA", "TA", "TIES", "SLERP"), "noDARE_task"),
    ],
)
def test_table_3(factor: str, methods: tuple[str, ...], key: str) -> None:
    found = paper.anova_of(factor, methods)
    assert found is not None
    assert [found.f, found.p] == pytest.approx(GOLDEN["anova_table2"][key], rel=1e-6)


@pytest.mark.parametrize("group", BANDS)
def test_table_5(group: str) -> None:
    mds, best = paper.best_losses(group)
    golden = GOLDEN["table5"][group.lower()]
    assert best == golden["best_LA_TA_TIES_as_printed"]
    found = fit(mds, best)
    assert found is not None
    assert found.r == pytest.approx(golden["r"], abs=1e-6)
    assert found.p == pytest.approx(golden["p"], abs=1e-5)
    assert found.rho == pytest.approx(golden["rho"], abs=1e-4)
    low, high = BANDS[group]
    assert low <= found.p <= high


def test_every_table_has_its_word() -> None:
    tables = paper.paper_tables()
    assert [table.key for table in tables] == [f"table_{k}" for k in range(1, 7)]
    assert all(table.rows or table.notes for table in tables)
    assert len(tables[3].rows) == 5
