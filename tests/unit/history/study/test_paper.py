"""The paper's tables are what its rows give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pytest_mergegate.history.study import paper
from pytest_mergegate.history.study.difficulty import fit

GOLDEN = json.loads((Path(__file__).parents[3] / "golden/data/golden.json").read_text())
BANDS = {"GLUE": (31e-4, 35e-4), "a": (12e-4, 13e-4), "b": (282e-4, 292e-4), "c": (55e-4, 60e-4)}


def test_the_rows_are_those_of_the_golden_data() -> None:
    data = Path(__file__).parents[3] / "golden" / "data"
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


@pytest.mark.parametrize("row", paper.rows_of("table5"), ids=lambda row: row["group"])
def test_rounding_explains_the_printed_p_of_table_5(row: dict[str, str]) -> None:
    """What the printed MDS and losses may have been before they were rounded gives that p too."""
    rng = np.random.default_rng(0)  # the data do not change, and so nor does the answer
    difficulties, best = (np.array(values) for values in paper.best_losses(row["group"]))
    found = []
    for _ in range(2000):
        mds = difficulties + rng.uniform(-0.005, 0.005, len(difficulties))
        fitted = fit(mds.tolist(), (best + rng.uniform(-0.05, 0.05, len(best))).tolist())
        assert fitted is not None
        found.append(fitted.p)
    printed = float(row["p"])
    assert min(found) <= printed + 5e-5
    assert max(found) >= printed - 5e-5


def test_printed_values_stand_beside_recomputed_ones() -> None:
    table = next(table for table in paper.paper_tables() if table.key == "table_5")
    rows = {row["group"]: row for row in table.to_dict()["rows"]}
    assert list(rows) == ["GLUE", "a", "b", "c"]
    assert [row["p, printed"] for row in rows.values()] == ["0.0032", "0.0013", "0.0288", "0.0059"]
    for group, row in rows.items():
        low, high = BANDS[group]
        assert low <= float(row["p"]) <= high
        assert low <= float(row["p, printed"]) <= high


@pytest.mark.parametrize("key", ["table_3", "table_6"])
def test_what_is_printed_and_not_at_hand_is_left_out(key: str) -> None:
    table = next(table for table in paper.paper_tables() if table.key == key)
    assert not [name for name in table.columns if "printed" in name]
    assert any("not among the data" in note for note in table.notes)


def test_every_table_has_its_word() -> None:
    tables = paper.paper_tables()
    assert [table.key for table in tables] == [f"table_{k}" for k in range(1, 7)]
    assert all(table.rows or table.notes for table in tables)
    assert len(tables[3].rows) == 5
