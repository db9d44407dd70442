"""The changed cases of a report, in the order in which the page shows them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pytest_mergegate.report.formats.cases import Piece, cases_of, compared_pieces, worst_first
from pytest_mergegate.report.formats.reading import merge_of
from pytest_mergegate.report.merge_records import ChangedRecord
from pytest_mergegate.report.types import Report

_OPEN = 3
"""Groups that are open at first."""


@dataclass(frozen=True)
class CaseView:
    """One case, its two answers beside each other."""

    record: ChangedRecord

    @cached_property
    def sides(self) -> tuple[tuple[str, str, str, float | None, list[Piece]], ...]:
        """Of the expert and of the merge: the class, the key, a name, the score, and what it
        says."""
        record = self.record
        own, other = compared_pieces(record.expert, record.merged)
        return (
            ("own", "expert", "The expert says", record.score_expert, own),
            ("other", "merged", "The merge says", record.score_merged, other),
        )


@dataclass(frozen=True, kw_only=True)
class CaseGroup:
    """The cases of one expert under one merge."""

    expert: str
    method: str
    inputs: int
    """How many were compared."""
    failing: bool
    """Whether the expert is not within budget under this merge."""
    open: bool
    cases: tuple[CaseView, ...]


def worst_case(report: Report, expert: str | None) -> CaseView | None:
    """The first of an expert's cases under the judged merge."""
    return next(map(CaseView, cases_of(report, expert)), None)


def case_groups(report: Report) -> list[CaseGroup]:
    """All of them: the judged merge's first, and in it the experts that are not within budget."""
    return list(_groups(report))


def _groups(report: Report) -> Iterator[CaseGroup]:
    judged, wrong = merge_of(report), [concern.expert for concern in worst_first(report)]
    order = {name: place for place, name in enumerate(wrong)}
    opened = 0
    for merge in sorted(report.merges, key=lambda merge: merge is not judged):
        is_judged = merge is judged
        known = [expert for expert in merge.experts if expert.changed]
        if is_judged:
            known.sort(key=lambda expert: order.get(expert.name, len(order)))
        for expert in known:
            failing = is_judged and expert.name in order
            is_open = failing and opened < _OPEN
            opened += is_open
            yield CaseGroup(
                expert=expert.name,
                method=merge.method,
                inputs=expert.inputs,
                failing=failing,
                open=is_open,
                cases=tuple(map(CaseView, expert.changed)),
            )
