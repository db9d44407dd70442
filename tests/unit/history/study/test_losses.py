"""Tables 1 to 3."""

from __future__ import annotations

import numpy as np
import pytest
from unit.history.registry.making import made

from pytest_mergegate.history.study.losses import anova, p_value, table_1, table_2, table_3
from pytest_mergegate.history.study.points import points_of

from .making import drawn_bed


def naive_f(groups: list[list[float]]) -> float:
    every = [value for group in groups for value in group]
    mean = sum(every) / len(every)
    means = [sum(group) / len(group) for group in groups]
    between = sum(len(g) * (m - mean) ** 2 for g, m in zip(groups, means, strict=True))
    within = sum((v - m) ** 2 for g, m in zip(groups, means, strict=True) for v in g)
    return (between / (len(groups) - 1)) / (within / (len(every) - len(groups)))


def test_anova_is_the_naive_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [list(rng.normal(k, 2, size)) for k, size in enumerate((3, 7, 5))]
    values = [value for group in groups for value in group]
    names = [k for k, group in enumerate(groups) for _ in group]
    found = anova(values, names)
    assert found is not None
    assert found.f == pytest.approx(naive_f(groups))
    assert 0 < found.p < 1
    assert (found.groups, found.values) == (3, 15)


def test_anova_that_has_no_answer() -> None:
    assert anova([1, 2, 3], ["a", "a", "a"]) is None
    assert anova([1, 2, 3], ["a", "b", "c"]) is None
    assert anova([1, 1, 2, 2], ["a", "a", "b", "b"]) is None
    assert anova([], []) is None


def test_table_1_is_mean_and_population_deviation() -> None:
    lines = [made("ab", losses={"a": -10.0, "b": -30.0}), made("cd", losses={"c": -20.0})]
    table = table_1("bed", points_of("bed", [*lines, made("abc", "ties density=0.5")]))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert rows[0] == {"method": "linear", "pairs": "-15.0 ± 11.2", "pools of 3": None}
    assert rows[1]["pools of 3"] == "0.0 ± 0.0"
    assert rows[2] == {"method": "points of a method", "pairs": 4, "pools of 3": 3}


def test_tables_2_and_3_of_a_drawn_bed() -> None:
    bed = drawn_bed("drawn")
    points = points_of(bed.name, bed.lines)
    second, third = table_2("drawn", points), table_3("drawn", points)
    assert len(second.rows) == 8 * 4
    assert [row[:2] for row in third.rows] == [
        ["the largest pool", "method"],
        ["the largest pool", "task"],
        ["all pools", "method"],
        ["all pools", "task"],
    ]
    # hard experts lose more under every method
    assert float(str(third.rows[3][-1])) < 1e-6
    assert float(str(third.rows[2][-1])) > 0.001


def test_p_values() -> None:
    assert [p_value(p) for p in (0.5, 0.001, 0.00042, 0.0)] == ["0.500", "0.001", "4e-04", "0e+00"]
