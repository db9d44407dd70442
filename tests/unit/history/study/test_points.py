"""What the tables take from registry lines."""

from __future__ import annotations

from unit.history.registry.making import made

from pytest_mergegate.history.calibration.observations import observations
from pytest_mergegate.history.study.points import by_base, largest_pool, methods_of, points_of


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
