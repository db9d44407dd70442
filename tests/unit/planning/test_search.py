"""Searches against every partition of small pools."""

from __future__ import annotations

import time
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_mergegate.planning.search import (
    TriedGroups,
    fewest_groups,
    fewest_left_out,
    mask_of,
    members,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.planning.search import Group

SEEDS = range(12)
ALL = 10_000


class Table:
    """Groups that pass by a table; all that was asked is counted."""

    def __init__(self, passing: dict[int, bool], risk: dict[int, float] | None = None) -> None:
        self.passing = passing
        self.risks = risk or {}
        self.asked: list[Group] = []

    def risk(self, group: Group) -> float:
        return self.risks.get(mask_of(group), float(len(group)))

    def passes(self, group: Group) -> bool:
        self.asked.append(group)
        return self.passing[mask_of(group)]


def drawn(count: int, seed: int, *, monotone: bool, share: float = 0.6) -> dict[int, bool]:
    """Which groups pass: at random, or, monotone, where every part of them does."""
    rng = np.random.default_rng(seed)
    table: dict[int, bool] = {}
    for mask in range(1, 1 << count):
        alone = mask & (mask - 1) == 0
        table[mask] = alone or bool(rng.random() < share)
        if monotone and not alone:
            parts = (mask ^ (1 << k) for k in members(mask))
            table[mask] = table[mask] and all(table[part] for part in parts)
    return table


def partitions(mask: int) -> Iterator[list[int]]:
    """Every partition of a set, as bit masks."""
    if not mask:
        yield []
        return
    first = mask & -mask
    rest = mask ^ first
    part = rest
    while True:
        for others in partitions(rest ^ part):
            yield [first | part, *others]
        if not part:
            return
        part = (part - 1) & rest


def fewest(count: int, passing: dict[int, bool]) -> int:
    return min(
        len(groups)
        for groups in partitions((1 << count) - 1)
        if all(passing[group] for group in groups)
    )


def inherited(count: int, passing: dict[int, bool]) -> dict[int, bool]:
    """A group passes where it and all of its parts do."""
    found: dict[int, bool] = {}
    for mask in range(1, 1 << count):
        parts = [mask ^ (1 << k) for k in members(mask)]
        found[mask] = passing[mask] and all(found[part] for part in parts if part)
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_the_fewest_groups_where_failing_is_inherited(count: int, seed: int) -> None:
    table = Table(drawn(count, seed, monotone=True, share=0.85))
    found = fewest_groups(count, TriedGroups(table, ALL))
    assert sorted(k for group in found.groups for k in group) == list(range(count))
    assert all(table.passing[mask_of(group)] for group in found.groups)
    assert len(found.groups) == found.at_least == fewest(count, table.passing)
    assert len(table.asked) == len(set(table.asked)), "no group is tried twice"


@pytest.mark.parametrize("seed", SEEDS)
def test_no_group_is_proposed_that_fails_where_it_is_not(seed: int) -> None:
    count = 6
    table = Table(drawn(count, seed, monotone=False))
    found = fewest_groups(count, TriedGroups(table, ALL))
    assert all(table.passing[mask_of(group)] for group in found.groups)
    assert len(found.groups) <= fewest(count, inherited(count, table.passing))


def test_a_union_that_passes_though_a_part_of_it_fails() -> None:
    """0 and 1 do not go together by themselves; with 2 and 3 they do."""
    passing = dict.fromkeys(range(1, 16), True)
    passing |= {0b0011: False, 0b0111: False, 0b1011: False}
    passing[0b1111] = False
    count_of_both = fewest_groups(4, TriedGroups(Table(passing), ALL))
    assert len(count_of_both.groups) == 2
    wide = {mask: mask.bit_count() == 1 for mask in range(1, 32)}
    wide[0b01111] = True  # nothing smaller passes
    found = fewest_groups(5, TriedGroups(Table(wide), ALL))
    assert len(found.groups) == 5, "only two at a time are joined"
    wide |= {0b00011: True, 0b01100: True}
    found = fewest_groups(5, TriedGroups(Table(wide), ALL))
    assert found.groups == ((0, 1, 2, 3), (4,))
    assert found.at_least <= 2


@pytest.mark.parametrize("most", [1, 5, 20, 40])
@pytest.mark.parametrize("seed", range(4))
def test_too_few_trials_are_admitted(seed: int, most: int) -> None:
    count = 7
    table = Table(drawn(count, seed, monotone=True, share=0.8))
    trials = TriedGroups(table, most)
    found = fewest_groups(count, trials)
    assert len(trials.known) == len(table.asked) <= most
    best = fewest(count, table.passing)
    assert found.at_least <= best <= len(found.groups)
    assert all(table.passing[mask_of(group)] for group in found.groups)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_fewest_to_leave_out(seed: int) -> None:
    count = 6
    table = Table(drawn(count, seed, monotone=True, share=0.8))
    found = fewest_left_out(count, TriedGroups(table, ALL))
    largest = max(mask.bit_count() for mask, passes in table.passing.items() if passes)
    if largest < 2:
        assert found is None
        return
    assert found is not None
    assert sorted((*found.kept, *found.dropped)) == list(range(count))
    assert table.passing[mask_of(found.kept)]
    assert len(found.kept) == largest
    assert found.at_least >= len(found.dropped)


def test_nothing_goes_together() -> None:
    table = Table({mask: mask.bit_count() == 1 for mask in range(1, 1 << 5)})
    assert fewest_groups(5, TriedGroups(table, ALL)).groups == ((0,), (1,), (2,), (3,), (4,))
    assert fewest_left_out(5, TriedGroups(table, ALL)) is None


def test_everything_goes_together() -> None:
    table = Table(dict.fromkeys(range(1, 1 << 5), True))
    trials = TriedGroups(table, ALL)
    assert fewest_groups(5, trials).groups == ((0, 1, 2, 3, 4),)
    found = fewest_left_out(5, trials)
    assert found is not None
    assert not found.dropped
    assert len(table.asked) == 1


class Far:
    """Experts on a line that pass within a distance of each other."""

    def __init__(self, places: np.ndarray, within: float) -> None:
        self.places, self.within = places, within

    def risk(self, group: Group) -> float:
        return float(np.ptp(self.places[list(group)]))

    def passes(self, group: Group) -> bool:
        return self.risk(group) <= self.within


@pytest.mark.parametrize("count", [12, 64])
def test_a_crowd_takes_seconds(count: int) -> None:
    places = np.random.default_rng(count).uniform(0, 100, size=count)
    start = time.perf_counter()
    trials = TriedGroups(Far(places, 20.0), 400)
    found = fewest_groups(count, trials)
    left_out = fewest_left_out(count, trials, found.groups)
    assert time.perf_counter() - start < 20
    assert len(trials.known) <= 400
    assert left_out is not None
    for group in (*found.groups, left_out.kept):
        assert np.ptp(places[list(group)]) <= 20
    ordered = np.sort(places)
    needed, at = 0, 0  # intervals from the left are the fewest
    while at < count:
        needed += 1
        at = int(np.searchsorted(ordered, ordered[at] + 20.0, side="right"))
    assert found.at_least <= needed <= len(found.groups)
    if count == 12:
        assert found.at_least >= len(found.groups)


def test_a_failure_learnt_later_blocks_what_holds_it() -> None:
    trials = TriedGroups(Table(dict.fromkeys(range(1, 8), True)), ALL)
    assert trials.passes(0b111)
    trials.note_failure(0b011)
    assert trials.blocked(0b111)
    assert fewest_groups(3, trials).groups == ((0, 1, 2),), "what was tried itself stands"
    trials.note_failure(0b111)
    assert len(fewest_groups(3, trials).groups) == 2


def test_pairs_are_tried_only_where_there_is_room() -> None:
    table = Table({mask: mask.bit_count() == 1 for mask in range(1, 1 << 6)})
    trials = TriedGroups(table, 20)  # fifteen pairs are more than half of it
    fewest_groups(6, trials)
    assert len(table.asked) <= 20
    pairs = [pair for pair in combinations(range(6), 2) if pair in table.asked]
    assert pairs
