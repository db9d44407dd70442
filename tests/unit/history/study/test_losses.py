"""What the tables take from registry lines, and Tables 1 to 3."""

from __future__ import annotations

import numpy as np
import pytest
from unit.history.registry.making import made

from pytest_mergegate.history.calibration.observations import observations
from pytest_mergegate.history.study.losses import (
    anova,
    by_base,
    largest_pool,
    methods_of,
    p_value,
    points_of,
    table_1,
    table_2,
    table_3,
)

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


def test_points_are_the_experts_whose_loss_is_known() -> None:
    line = made("abc", losses={"a": -31.0, "b": None, "c": -30.0})
    points = points_of("bed", [line])
    assert [(p.name, p.loss) for p in points] == [("a", -31.0), ("c", -30.0)]
    assert all(p.size == 3 for p in points)


def test_a_merge_that_was_measured_again_counts_once_as_it_was_found_last() -> None:
    lines = [made("ab", losses={"a": -1.0}), made("ab", losses={"a": -2.0})]
    assert [p.loss for p in points_of("bed", lines) if p.name == "a"] == [-2]
    at = {"2026-01-02T00:00:00+00:00": -3.0, "2026-01-01T00:00:00+00:00": -4.0}
    merged_files = [made("ab", losses={"a": loss}, created=when) for when, loss in at.items()]
    assert [p.loss for p in points_of("bed", merged_files) if p.name == "a"] == [-3]
    assert [one.loss for one in observations(merged_files) if one.name == "a"] == [-3]
    others = [made("ab"), made("ab", weights={"a": 0.9, "b": 0.1}), made("ab", "ties density=0.5")]
    assert len(points_of("bed", others)) == 6


def test_methods_are_told_in_short_and_slerps_are_one() -> None:
    labels = ("slerp", "karcher", "multislerp", "ties density=0.5", "task_arithmetic weight=0.45")
    points = points_of("bed", [made("ab", label) for label in labels])
    assert methods_of(points) == ("slerp", "ties 0.5", "task_arithmetic 0.45")


def test_pools_of_two_beds_are_two() -> None:
    a, b = (points_of(bed, [made("ab")])[0] for bed in ("one", "other"))
    assert a.pool != b.pool
    assert a.line.pool == b.line.pool


def test_two_experts_of_one_name_are_told_apart_by_their_fingerprints() -> None:
    first = made("ab")
    again = first.experts[0].model_copy(update={"fingerprint": "sha256:0123456789"})
    second = first.model_copy(update={"experts": (again, first.experts[1])})
    points = points_of("bed", [first, second])
    assert [point.name for point in points] == ["a a", "b", "a 01234567", "b"]
    assert points[3].partners == ("a 01234567", "b")


def test_bases_are_beds_of_their_own() -> None:
    assert list(by_base("r.jsonl", [made("ab"), made("cd")])) == ["r.jsonl"]
    found = by_base("r.jsonl", [made("ab"), made("ab", base="sha256:abcdef0123")])
    assert list(found) == ["r.jsonl, base base", "r.jsonl, base abcdef01"]
    assert {point.bed for points in found.values() for point in points} == set(found)


def test_the_largest_pool() -> None:
    lines = [made("ab"), made("abc"), made("abc", "ties"), made("bcd"), made("cd")]
    points = largest_pool(points_of("bed", lines))
    assert [p.name for p in points] == ["a", "b", "c", "a", "b", "c"]
